//! What is under the bus, chosen in the configuration.

use std::path::Path;

use super::Config;
use crate::bus::Bus;
use crate::error::Result;

/// What is under a bus: where its events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backend {
    /// A log in memory: an in-process bus, whose events end with the process.
    Memory,
    /// A log in a directory: a durable bus.
    #[default]
    Disk,
    /// Topics and consumer groups of Apache Kafka: a bus of many machines. With the feature `kafka`.
    Kafka,
}

impl Backend {
    /// The words of a configuration.
    pub(super) const WORDS: &[&str] = &["memory", "disk", "kafka"];

    pub(super) fn from_word(word: &str) -> Self {
        match word {
            "memory" => Self::Memory,
            "kafka" => Self::Kafka,
            _ => Self::Disk,
        }
    }
}

impl Config {
    /// What is under the bus: `bus.backend`, by default a log in a directory.
    pub fn backend(&self) -> Backend {
        self.sections.bus.backend()
    }

    /// Opens the bus that the configuration says, on the [backend](Self::backend) that it says: the same program runs on a log in memory,
    /// on one in `dir`, or on Kafka, which takes the section `[kafka]` and the `KAFKA_*` variables, and no directory.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open`](crate::LogBuilder::open) and [`Bus::on_kafka`]; [`Unsupported`](crate::ErrorKind::Unsupported) for Kafka
    /// in a program that was built without the feature `kafka`.
    ///
    /// # Cancel safety
    ///
    /// As [`LogBuilder::open`](crate::LogBuilder::open).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Backend, Config, Json, TopicDef};
    ///
    /// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
    /// let config = Config::from_toml("[bus]\nbackend = \"disk\"")?.with_vars([("ANNALS_BUS_BACKEND", "memory")])?;
    /// assert_eq!(config.backend(), Backend::Memory);
    /// let bus = config.open_bus("data").await?;
    /// bus.publish(ORDERS, 17).await?;
    /// # Ok(()) }
    /// ```
    pub async fn open_bus(&self, dir: impl AsRef<Path>) -> Result<Bus> {
        match self.backend() {
            Backend::Memory => self.log().in_memory()?.bus_with(self.bus()),
            Backend::Disk => self.log().open(dir).await?.bus_with(self.bus()),
            #[cfg(feature = "kafka")]
            Backend::Kafka => Bus::on_kafka(self.kafka.clone(), self.bus()),
            #[cfg(not(feature = "kafka"))]
            Backend::Kafka => Err(crate::error::Error::new(
                crate::error::ErrorKind::Unsupported,
                "`bus.backend` is \"kafka\", and this program was built without the feature `kafka`; \"memory\" and \"disk\" are allowed",
            )),
        }
    }
}
