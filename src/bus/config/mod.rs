//! Configuration from a TOML file and from the environment.

use std::fmt;
use std::path::Path;

use toml::Table;

use super::settings::BusSettings;
use super::subscribe::On;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::LogBuilder;
#[cfg(feature = "kafka")]
use crate::kafka::KafkaConfig;
use crate::log::settings::TopicSettings;

mod backend;
mod env;
mod read;
mod schema;
mod sections;
#[cfg(test)]
mod tests;

pub use backend::Backend;
use sections::Sections;

/// What an operator can say about a log, its bus, its topics and its subscriptions, without the program being built anew: a TOML file,
/// and environment variables, which win over the file. `docs/CONFIGURATION.md` lists every key.
///
/// All of it is checked when it is read: an unknown key and a value outside of what is allowed are errors that say which key it is, what
/// its value is, and what is allowed. What the file does not say is left as the program has it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Config, Context, Event, Json, Log, TopicDef};
///
/// let config = Config::from_toml(
///     r#"
///     [log]
///     journal_bytes = "64MiB"
///
///     [bus]
///     source = "billing"
///     environment = "staging"
///
///     [topics.orders]
///     partitions = 4
///     retention_age_max = "30d"
///
///     [subscriptions.billing]
///     concurrency = 8
///     deadline = "10s"
///     dead_letter = "orders.dlq"
///     retry = { attempts = 5, base = "200ms", ceiling = "1m" }
///     circuit_breaker = { failures = 10, open_for = "30s" }
///     "#,
/// )?
/// .with_vars([("ANNALS_SUBSCRIPTIONS_BILLING_CONCURRENCY", "16")])?;   // `with_env` takes those of the process
///
/// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
/// let log = config.log().in_memory()?;
/// let bus = log.bus_with(config.bus())?;
/// bus.on(ORDERS, "billing", |order: Event<u64>, _: Context| Ok::<_, annals::Error>(())).config(&config).spawn().await?;
/// assert_eq!(log.describe_topic("staging.orders")?.settings.partitions, 4);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Config {
    /// Checked, and with its values written in one way.
    table: Table,
    sections: Sections,
    bus: BusSettings,
    /// The section `[kafka]`, which is not in the table: it may have secrets.
    #[cfg(feature = "kafka")]
    kafka: KafkaConfig,
}

/// The section of a file that is about Kafka.
const KAFKA: &str = "kafka";

/// The section about the mirror, which `MirrorConfig` reads.
const MIRROR: &str = "mirror";

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Config").field(&self.table).finish()
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(feature = "kafka")]
        let same = self.kafka == other.kafka;
        #[cfg(not(feature = "kafka"))]
        let same = true;
        same && self.table == other.table
    }
}

impl Default for Config {
    /// Says nothing.
    fn default() -> Self {
        Self {
            table: Table::new(),
            sections: Sections::default(),
            bus: BusSettings::default(),
            #[cfg(feature = "kafka")]
            kafka: KafkaConfig::default(),
        }
    }
}

impl Config {
    fn new(table: Table) -> Result<Self> {
        let sections = Sections::read(&table)?;
        let bus = sections.bus_settings()?;
        Ok(Self {
            table,
            sections,
            bus,
            #[cfg(feature = "kafka")]
            kafka: KafkaConfig::default(),
        })
    }

    /// The configuration that a text says. The section `[mirror]` is let be: with the feature `kafka`, `MirrorConfig` reads it from the same
    /// text.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a text that is no TOML, for keys that are unknown, and for values outside of what is allowed.
    pub fn from_toml(text: &str) -> Result<Self> {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::invalid(format!("the configuration is no TOML, in line {line}: {}", error.message()))
        })?;
        // Read by who knows it; in a program without Kafka by nobody.
        table.remove(KAFKA);
        table.remove(MIRROR);
        let config = Self::new(read::table(schema::ROOT, "", table)?)?;
        #[cfg(feature = "kafka")]
        let config = Self { kafka: KafkaConfig::from_toml(text)?, ..config };
        Ok(config)
    }

    /// The configuration that a file says.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) for a file that is not there, [`Io`](ErrorKind::Io) for one that cannot be read; else as
    /// [`from_toml`](Self::from_toml).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let sentence = format!("cannot read the configuration {}", path.display());
            match error.kind() {
                std::io::ErrorKind::NotFound => Error::with_source(ErrorKind::NotFound, sentence, error),
                std::io::ErrorKind::InvalidData => Error::with_source(ErrorKind::Invalid, sentence, error),
                _ => Error::io(sentence, error),
            }
        })?;
        Self::from_toml(&text)
            .map_err(|error| Error::with_source(error.kind(), format!("the configuration {}", path.display()), error))
    }

    /// With the environment variables of this process, which win over what was read before. The variable of a key is `ANNALS_` and
    /// its path in capitals, with `_` between the parts and for whatever is neither letter nor digit:
    ///
    /// | variable | key |
    /// |---|---|
    /// | `ANNALS_BUS_SOURCE` | `bus.source` |
    /// | `ANNALS_BUS_TOPIC_DEFAULTS_PARTITIONS` | `bus.topic_defaults.partitions` |
    /// | `ANNALS_TOPICS_ORDERS_EU_RETENTION_AGE_MAX` | `topics."orders.eu".retention_age_max`, if there is such a topic in the file; else `topics.orders_eu.retention_age_max` |
    /// | `ANNALS_SUBSCRIPTIONS_BILLING_RETRY_ATTEMPTS` | `subscriptions.billing.retry.attempts` |
    ///
    /// Lists are separated by commas. Variables that begin in another way, such as `ANNALS_DIR`, are none of its business; one that
    /// begins with `ANNALS_LOG_`, `ANNALS_BUS_`, `ANNALS_TOPICS_` or `ANNALS_SUBSCRIPTIONS_` and leads to no key is an error.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid), as [`from_toml`](Self::from_toml).
    pub fn with_env(self) -> Result<Self> {
        let mut ours = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(env::PREFIX)) else { continue };
            match value.into_string() {
                Ok(value) => ours.push((name.to_owned(), value)),
                Err(_) if env::section(name).is_none() => {}
                Err(_) => return Err(Error::invalid(format!("the variable {name} is no text in UTF-8"))),
            }
        }
        let config = self.with_vars(ours)?;
        #[cfg(feature = "kafka")]
        let config = Self { kafka: config.kafka.with_env()?, ..config };
        Ok(config)
    }

    /// [`with_env`](Self::with_env), with variables that are given: for tests, and for whoever has them from elsewhere.
    ///
    /// # Errors
    ///
    /// As [`with_env`](Self::with_env).
    pub fn with_vars<N: AsRef<str>, V: AsRef<str>>(self, variables: impl IntoIterator<Item = (N, V)>) -> Result<Self> {
        let mut table = self.table;
        #[cfg(feature = "kafka")]
        let mut kafka = self.kafka;
        for (name, value) in variables {
            env::put(&mut table, name.as_ref(), value.as_ref())?;
            #[cfg(feature = "kafka")]
            {
                kafka = kafka.with_vars([(name, value)])?;
            }
        }
        let config = Self::new(table)?;
        #[cfg(feature = "kafka")]
        let config = Self { kafka, ..config };
        Ok(config)
    }

    /// What it says about the log, for opening one.
    pub fn log(&self) -> LogBuilder {
        self.sections.log.builder()
    }

    /// What it says about Kafka: the section `[kafka]`, and the `KAFKA_*` variables.
    #[cfg(feature = "kafka")]
    pub fn kafka(&self) -> KafkaConfig {
        self.kafka.clone()
    }

    /// What it says about the bus, the settings of single topics included.
    pub fn bus(&self) -> BusSettings {
        self.bus.clone()
    }

    /// The settings of a topic: its own, and `bus.topic_defaults` for what they leave out.
    pub fn topic(&self, name: &str) -> TopicSettings {
        self.bus.topics.get(name).unwrap_or(&self.bus.topic_defaults).clone()
    }

    /// The topics that it says something about.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.sections.topics.keys().map(String::as_str)
    }

    /// The groups whose subscriptions it says something about.
    pub fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.sections.subscriptions.keys().map(String::as_str)
    }

    /// The text that says the same, but for the section `[kafka]`, which may have secrets. Lengths of time and sizes are written in one way only, `"60s"` for `"1m"`.
    pub fn to_toml(&self) -> String {
        // A table of texts, numbers and tables can always be written.
        toml::to_string(&self.table).unwrap_or_default()
    }
}

impl On {
    /// Takes over what a [configuration](Config) says about the subscription of this group, if it does, in place of what was set before;
    /// what is set after it is left alone. Nothing of it can be wrong: it was checked when it was read.
    pub fn config(mut self, config: &Config) -> Self {
        let Some(section) = config.sections.subscriptions.get(&self.group) else { return self };
        section.apply(&mut self.policy);
        // A section has one of the two: a topic, or what becomes of failed events without one.
        if section.dead_letter.is_some() || section.on_failure.is_some() {
            self.dead_letter.clone_from(&section.dead_letter);
        }
        self.sequenced = section.sequenced.unwrap_or(self.sequenced);
        if let Some(start) = section.start {
            self.start = start.0;
        }
        self
    }
}
