//! Apache Kafka beside the log: [`Mirror`] forwards topics to it, [`Source`] brings topics back.

mod alone;
mod checkpoint;
mod cluster;
mod commit;
mod config;
mod connect;
mod forward;
mod handle;
mod lane;
mod look;
#[cfg(feature = "metrics")]
mod metrics;
mod origin;
mod outgoing;
mod producer;
mod run;
mod settings;
mod shared;
mod source;
mod status;
mod unit;
mod watch;

pub use crate::handle::links::{LinkHealth, LinkKind};
pub use crate::kafka::{Acks, KafkaCompression, KafkaConfig, OAuthToken, SaslMechanism, SecurityProtocol, TokenError};
pub use config::MirrorConfig;
pub use handle::Mirror;
pub use origin::{GAP_FROM, GAP_TO, MARKER, ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC, Origin};
pub use settings::{Guarantee, Hold, MirrorBuilder, OnBreach, OnRefused, Partitions, TargetTopics};
pub use source::{OnMissing, Source, SourceBuilder, SourcePartition, SourcePartitions, SourceStart, SourceStatus};
pub use status::{ErrorClass, MirrorError, MirrorPartition, MirrorState, MirrorStatus};

/// The examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/KAFKA.md")]
struct Documentation;
