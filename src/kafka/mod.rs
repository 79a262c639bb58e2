//! What is known of Apache Kafka, and of its client library, and nothing of the log: how to reach it, and what its errors mean.

mod config;
mod error;

pub use config::KafkaConfig;
pub(crate) use error::{Class, class, from_kafka};
