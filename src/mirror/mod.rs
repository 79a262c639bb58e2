//! Apache Kafka beside the log: forwarding topics to it, and bringing topics back.

pub use crate::kafka::{Acks, KafkaCompression, KafkaConfig, OAuthToken, SaslMechanism, SecurityProtocol, TokenError};
