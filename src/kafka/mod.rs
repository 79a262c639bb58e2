//! What is known of Apache Kafka, and of its client library, and nothing of the log: how to reach it, what its topics are, and what its
//! errors mean.

mod admin;
mod config;
mod context;
mod error;

pub(crate) use admin::{Admin, NewTopic, TopicInfo};
pub use config::{Acks, KafkaCompression, KafkaConfig, SaslMechanism, SecurityProtocol};
pub(crate) use context::KafkaContext;
pub use context::{OAuthToken, TokenError};
pub(crate) use error::{Class, class, class_of, code, from_code, from_kafka};
