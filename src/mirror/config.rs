//! A mirror out of a configuration file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use super::settings::{
    COMMIT_INTERVAL, Guarantee, Hold, IN_FLIGHT_BYTES, MirrorBuilder, OnBreach, OnRefused, Partitions, TargetTopics,
    check_name,
};
use crate::error::{Error, Result};
use crate::group::pattern::Subscription;
use crate::text::{nearest, quoted};
use crate::units::{parse_size, parse_time, shown_size, shown_time};

const SECTION: &str = "mirror";

const KEYS: &[&str] = &[
    "name",
    "topics",
    "guarantee",
    "partitions",
    "prefix",
    "create_topics",
    "on_refused",
    "dead_letter",
    "on_breach",
    "hold_retention",
    "hold_bytes_max",
    "hold_age_max",
    "forward_foreign",
    "checkpoint_topic",
    "commit_interval",
    "in_flight_bytes_max",
    "retry_paused",
];

/// What a configuration file says about a mirror, in its section `[mirror]`; `docs/CONFIGURATION.md` lists the keys. What it does not
/// say is left as it is. How the cluster is reached is a section of its own, which [`KafkaConfig`](super::KafkaConfig) reads.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::Log;
/// use annals::mirror::{KafkaConfig, Mirror, MirrorConfig};
///
/// let text = r#"
///     [kafka]
///     bootstrap_servers = "kafka-1:9092,kafka-2:9092"
///
///     [mirror]
///     topics = ["orders", "audit.*"]
///     prefix = "shop."
///     commit_interval = "50ms"
///     create_topics = { replication = 3, config = { "retention.ms" = "604800000" } }
/// "#;
/// let log = Log::in_memory()?;
/// let mirror = Mirror::builder(&log).config(&MirrorConfig::from_toml(text)?).to(KafkaConfig::from_toml(text)?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorConfig {
    name: Option<String>,
    topics: Vec<String>,
    guarantee: Option<Guarantee>,
    by_key: Option<bool>,
    prefix: Option<String>,
    create: Option<TargetTopics>,
    on_refused: Option<OnRefused>,
    on_breach: Option<OnBreach>,
    hold: Option<Option<Hold>>,
    forward_foreign: Option<bool>,
    checkpoint_topic: Option<String>,
    commit_interval: Option<Duration>,
    in_flight_bytes_max: Option<usize>,
    retry_paused: Option<Option<Duration>>,
}

impl MirrorConfig {
    /// What the section `[mirror]` says; other sections are let be, and a text without the section says nothing.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a text that is no TOML, for keys that are unknown, and for values outside of what is
    /// allowed.
    pub fn from_toml(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Where, and not what: there may be passwords in the file.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            Error::invalid(format!("the configuration is no TOML, in line {}", before.matches('\n').count() + 1))
        })?;
        match table.get(SECTION) {
            Some(Value::Table(section)) => Self::read(section),
            Some(_) => Err(Error::invalid(format!("`{SECTION}` is no table; a table is allowed"))),
            None => Ok(Self::default()),
        }
    }

    /// The topics that it names, and patterns.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }

    fn read(table: &Table) -> Result<Self> {
        let section = Section::new(SECTION, table, KEYS)?;
        let on_refused = section.word("on_refused", &[("stop", OnRefused::Stop), ("skip", OnRefused::Skip)])?;
        let dead_letter = section.text("dead_letter")?.map(OnRefused::DeadLetter);
        if on_refused.is_some() && dead_letter.is_some() {
            return Err(Error::invalid(
                "`mirror.on_refused` and `mirror.dead_letter` are both set; one of the two is allowed",
            ));
        }
        let found = Self {
            name: section.text("name")?,
            topics: section.names("topics")?,
            guarantee: section.word(
                "guarantee",
                &[("exactly_once", Guarantee::ExactlyOnce), ("at_least_once", Guarantee::AtLeastOnce)],
            )?,
            by_key: section.word("partitions", &[("preserve", false), ("by_key", true)])?,
            prefix: section.text("prefix")?,
            create: section.create()?,
            on_refused: on_refused.or(dead_letter),
            on_breach: section
                .word("on_breach", &[("stop", OnBreach::Stop), ("skip", OnBreach::Skip), ("block", OnBreach::Block)])?,
            hold: section.hold()?,
            forward_foreign: section.flag("forward_foreign")?,
            checkpoint_topic: section.text("checkpoint_topic")?,
            commit_interval: section.time("commit_interval", &COMMIT_INTERVAL)?,
            in_flight_bytes_max: section
                .size("in_flight_bytes_max", &(*IN_FLIGHT_BYTES.start() as u64..=*IN_FLIGHT_BYTES.end() as u64))?
                .and_then(|bytes| usize::try_from(bytes).ok()),
            retry_paused: section.retry_paused()?,
        };
        if let Some(name) = &found.name {
            check_name("mirror", name)?;
        }
        if !found.topics.is_empty() {
            Subscription::new(found.topics.iter().map(String::as_str))?;
        }
        Ok(found)
    }

    fn apply(&self, mut builder: MirrorBuilder) -> MirrorBuilder {
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        builder = builder.topics(self.topics());
        if let Some(guarantee) = self.guarantee {
            builder = builder.guarantee(guarantee);
        }
        if let Some(by_key) = self.by_key {
            builder = builder.partitions(if by_key { Partitions::ByKey } else { Partitions::Preserve });
        }
        if let Some(prefix) = &self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(topics) = &self.create {
            builder = builder.create_topics(topics.clone());
        }
        if let Some(on_refused) = &self.on_refused {
            builder = builder.on_refused(on_refused.clone());
        }
        if let Some(on_breach) = self.on_breach {
            builder = builder.on_breach(on_breach);
        }
        if let Some(hold) = self.hold {
            builder = builder.hold_retention(hold);
        }
        if let Some(forward) = self.forward_foreign {
            builder = builder.forward_foreign(forward);
        }
        if let Some(topic) = &self.checkpoint_topic {
            builder = builder.checkpoint_topic(topic);
        }
        if let Some(interval) = self.commit_interval {
            builder = builder.commit_interval(interval);
        }
        if let Some(bytes) = self.in_flight_bytes_max {
            builder = builder.in_flight_bytes_max(bytes);
        }
        if let Some(after) = self.retry_paused {
            builder = builder.retry_paused(after);
        }
        builder
    }
}

impl MirrorBuilder {
    /// Takes over what a [configuration](MirrorConfig) says, in place of what was set before; topics are added. What is set after it
    /// holds.
    pub fn config(self, config: &MirrorConfig) -> Self {
        config.apply(self)
    }
}

/// A table of which all keys are known.
struct Section<'a> {
    path: &'static str,
    table: &'a Table,
}

impl<'a> Section<'a> {
    fn new(path: &'static str, table: &'a Table, keys: &[&str]) -> Result<Self> {
        match table.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(Self { path, table }),
            Some(key) => Err(Error::invalid(match nearest(key, keys.iter().copied()) {
                Some(near) => format!("`{path}.{key}` is unknown; did you mean `{near}`?"),
                None => {
                    let known: Vec<String> = keys.iter().map(|known| format!("`{known}`")).collect();
                    format!("`{path}.{key}` is unknown; known are {}", known.join(", "))
                }
            })),
        }
    }

    /// The value of a key, as `read` takes it.
    fn get<T>(
        &self,
        key: &str,
        allowed: impl FnOnce() -> String,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let shown = || match value {
            Value::String(text) => quoted(text),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Datetime(_) => "a time".to_owned(),
        };
        let refused = || Error::invalid(format!("`{}.{key}` is {}; {}", self.path, shown(), allowed()));
        read(value).map(Some).ok_or_else(refused)
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        let read = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.get(key, || "text that is not empty is allowed".to_owned(), read)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, || "true and false are allowed".to_owned(), Value::as_bool)
    }

    fn word<T: Clone>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let allowed = || {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            format!("{} are allowed", words.join(" and "))
        };
        self.get(key, allowed, |value| {
            let text = value.as_str()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| meaning.clone())
        })
    }

    fn names(&self, key: &str) -> Result<Vec<String>> {
        let read = |value: &Value| match value {
            Value::String(one) => Some(vec![one.clone()]),
            value => value.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect(),
        };
        let found = self.get(key, || "a list of texts is allowed".to_owned(), read)?;
        Ok(found.unwrap_or_default())
    }

    fn count(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let read = |value: &Value| u32::try_from(value.as_integer()?).ok().filter(|count| range.contains(count));
        self.get(key, || format!("{} to {} are allowed", range.start(), range.end()), read)
    }

    fn time(&self, key: &str, range: &RangeInclusive<Duration>) -> Result<Option<Duration>> {
        let read = |value: &Value| parse_time(value.as_str()?).filter(|time| range.contains(time));
        let allowed = || {
            let (least, most) = (shown_time(*range.start()), shown_time(*range.end()));
            format!("{least} to {most} are allowed, such as \"250ms\", \"30s\", \"5m\"")
        };
        self.get(key, allowed, read)
    }

    fn size(&self, key: &str, range: &RangeInclusive<u64>) -> Result<Option<u64>> {
        let read = |value: &Value| {
            let bytes = value.as_integer().and_then(|bytes| u64::try_from(bytes).ok());
            bytes.or_else(|| parse_size(value.as_str()?)).filter(|bytes| range.contains(bytes))
        };
        let allowed = || format!("{} to {} are allowed", shown_size(*range.start()), shown_size(*range.end()));
        self.get(key, allowed, read)
    }

    fn create(&self) -> Result<Option<TargetTopics>> {
        const KEYS: &[&str] = &["partitions", "replication", "config"];
        let allowed = || "a table is allowed, be it empty".to_owned();
        let Some(table) = self.get("create_topics", allowed, |value| value.as_table().cloned())? else {
            return Ok(None);
        };
        let section = Section::new("mirror.create_topics", &table, KEYS)?;
        let config = section.get(
            "config",
            || "a table of texts is allowed".to_owned(),
            |value| {
                let text = |value: &Value| match value {
                    Value::String(text) => Some(text.clone()),
                    Value::Integer(number) => Some(number.to_string()),
                    Value::Boolean(flag) => Some(flag.to_string()),
                    Value::Float(number) => Some(number.to_string()),
                    _ => None,
                };
                value.as_table()?.iter().map(|(name, value)| Some((name.clone(), text(value)?))).collect()
            },
        )?;
        let config: BTreeMap<String, String> = config.unwrap_or_default();
        let mut topics = TargetTopics { config, ..TargetTopics::default() };
        topics.partitions = section.count("partitions", 1..=10_000)?;
        let replication = section.count("replication", 1..=100)?;
        topics.replication = replication.and_then(|count| u16::try_from(count).ok());
        Ok(Some(topics))
    }

    fn hold(&self) -> Result<Option<Option<Hold>>> {
        const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
        let holds = self.flag("hold_retention")?;
        let bytes = self.size("hold_bytes_max", &(1..=i64::MAX as u64))?;
        let age = self.time("hold_age_max", &(Duration::from_secs(1)..=YEARS))?;
        if holds == Some(false) {
            return match (bytes, age) {
                (None, None) => Ok(Some(None)),
                _ => Err(Error::invalid(
                    "`mirror.hold_retention` is false, but there is a cap for it; without it no cap is allowed",
                )),
            };
        }
        let default = Hold::default();
        let hold = Hold { bytes_max: bytes.or(default.bytes_max), age_max: age.or(default.age_max) };
        Ok((holds, bytes, age).ne(&(None, None, None)).then_some(Some(hold)))
    }

    /// A length of time, or never.
    fn retry_paused(&self) -> Result<Option<Option<Duration>>> {
        const KEY: &str = "retry_paused";
        if self.table.get(KEY).and_then(Value::as_str) == Some("never") {
            return Ok(Some(None));
        }
        let range = Duration::from_millis(1)..=Duration::from_secs(30 * 86_400);
        Ok(self.time(KEY, &range)?.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Guarantee, Hold, Mirror, OnBreach, OnRefused, Partitions, TargetTopics};
    use super::MirrorConfig;
    use crate::error::ErrorKind;
    use crate::handle::Log;

    fn read(lines: &str) -> crate::error::Result<MirrorConfig> {
        MirrorConfig::from_toml(&format!("[log]\ncreate = true\n\n[mirror]\n{lines}\n"))
    }

    #[test]
    fn each_key_is_taken_over() {
        let log = Log::in_memory().unwrap();
        let config = read(
            r#"
            name = "shop"
            topics = ["orders", "audit.*"]
            guarantee = "at_least_once"
            partitions = "by_key"
            prefix = "shop."
            create_topics = { partitions = 3, replication = 2, config = { "retention.ms" = 1000, "cleanup.policy" = "compact" } }
            dead_letter = "refused"
            on_breach = "skip"
            hold_bytes_max = "1GiB"
            forward_foreign = true
            checkpoint_topic = "places"
            commit_interval = "50ms"
            in_flight_bytes_max = "1MiB"
            retry_paused = "never"
            "#,
        )
        .unwrap();
        let builder = Mirror::builder(&log).topics(["more"]).config(&config);
        assert_eq!(builder.name, "shop");
        assert_eq!(builder.topics, ["more", "orders", "audit.*"]);
        assert_eq!(builder.guarantee, Guarantee::AtLeastOnce);
        assert!(matches!(builder.partitions, Partitions::ByKey));
        assert_eq!(builder.target("x"), "shop.x");
        let topics = TargetTopics::default().partitions(3).replication(2);
        let topics = topics.config("retention.ms", "1000").config("cleanup.policy", "compact");
        assert_eq!(builder.create, Some(topics));
        assert_eq!(builder.on_refused, OnRefused::DeadLetter("refused".into()));
        assert_eq!(builder.on_breach, OnBreach::Skip);
        assert_eq!(builder.hold, Some(Hold { bytes_max: Some(1 << 30), ..Hold::default() }));
        assert!(builder.forward_foreign);
        assert_eq!(builder.checkpoint_topic, "places");
        assert_eq!(builder.commit_interval, Duration::from_millis(50));
        assert_eq!(builder.in_flight_bytes_max, 1 << 20);
        assert_eq!(builder.retry_paused, None);
        // What is not said is left alone.
        let said = MirrorConfig::from_toml("").unwrap();
        let builder = Mirror::builder(&log).name("own").prefix("own.").config(&said);
        assert_eq!((&*builder.name, &*builder.target("x"), builder.hold), ("own", "own.x", Some(Hold::default())));
        let none = Mirror::builder(&log).config(&read("hold_retention = false\ntopics = \"orders\"").unwrap());
        assert_eq!((none.hold, none.topics), (None, vec!["orders".to_owned()]));
    }

    #[test]
    fn the_documentation_is_complete() {
        let text = include_str!("../../docs/CONFIGURATION.md");
        let section = text.split("## `[mirror]`").nth(1).unwrap();
        for key in super::KEYS {
            assert!(section.contains(&format!("| `{key}` |")), "`{key}` is not there");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_allowed() {
        for (line, part) in [
            ("topic = []", "`mirror.topic` is unknown; did you mean `topics`?"),
            ("colour = 1", "`mirror.colour` is unknown; known are `name`, `topics`"),
            ("topics = [1]", "`mirror.topics` is a list; a list of texts is allowed"),
            ("topics = [\"a b\"]", "contains ' '"),
            ("name = \"a/b\"", "the mirror's name is \"a/b\""),
            ("guarantee = \"twice\"", "\"exactly_once\" and \"at_least_once\" are allowed"),
            ("partitions = 3", "`mirror.partitions` is 3; \"preserve\" and \"by_key\" are allowed"),
            ("create_topics = true", "a table is allowed"),
            ("create_topics = { partitions = 0 }", "`mirror.create_topics.partitions` is 0; 1 to 10000 are allowed"),
            ("create_topics = { replicas = 1 }", "`mirror.create_topics.replicas` is unknown; known are `partitions`"),
            ("create_topics = { config = { a = [] } }", "a table of texts is allowed"),
            ("on_refused = \"drop\"", "\"stop\" and \"skip\" are allowed"),
            ("on_refused = \"skip\"\ndead_letter = \"d\"", "one of the two is allowed"),
            ("hold_retention = false\nhold_bytes_max = 1", "no cap is allowed"),
            ("hold_age_max = \"1x\"", "1s to 3650d are allowed"),
            ("commit_interval = \"1m\"", "1ms to 30s are allowed"),
            ("in_flight_bytes_max = 1", "64KiB to 1GiB are allowed"),
            ("retry_paused = 5", "`mirror.retry_paused` is 5"),
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
        let secret = "[kafka]\nsasl_password = \"hunter2\n[mirror]\n";
        let error = MirrorConfig::from_toml(secret).unwrap_err();
        assert!(error.to_string().contains("line 2") && !format!("{error:?}").contains("hunter2"), "{error:?}");
        assert!(MirrorConfig::from_toml("mirror = 1").unwrap_err().to_string().contains("a table is allowed"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_an_error(text: String, value in ".{0,20}", number: i64) {
            let log = Log::in_memory().unwrap();
            for key in super::KEYS {
                let values = [format!("{value:?}"), number.to_string(), text.clone(), format!("[{value:?}]")];
                for value in values {
                    if let Ok(config) = read(&format!("{key} = {value}")) {
                        drop(Mirror::builder(&log).config(&config));
                    }
                }
            }
            let _ = MirrorConfig::from_toml(&text);
        }
    }
}
