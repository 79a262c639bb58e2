#![doc = include_str!("../README.md")]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod bus;
mod codec;
mod consumer;
mod error;
pub mod event;
mod expected;
mod find;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod handle;
pub mod inspect;
mod journal;
#[cfg(feature = "kafka")]
mod kafka;
mod log;
#[cfg(feature = "kafka")]
pub mod mirror;
mod partition;
mod partitioner;
mod planted;
mod producer;
mod record;
mod replay;
mod segment;
#[cfg(test)]
mod sim;
mod sourcing;
mod storage;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod topic;
mod transaction;
mod units;
mod views;

pub use bus::{
    Backend, Blocking, BreakerState, Bus, BusSettings, BusStats, CircuitBreaker, Config, Context, DeadLetter,
    DeadLetters, Delayed, Event, Filter, Handler, HandlerError, Health, On, Reason, Retry, Router, Saga, Step,
    Subscription, SubscriptionHealth, SubscriptionStats, UnknownType, blocking,
};
pub use codec::{Bincode, Codec, CodecError, Json, Raw, TopicDef};
pub use consumer::{Consumer, Item, Lag, OnGap, Rebalance, Revoked, Subscribe, TopicPartition};
pub use error::{Corruption, Error, ErrorKind, FailedRecord, Gap, OffsetRange, Result, Rewound};
pub use expected::Expected;
pub use find::{BlockingFind, Find};
pub use handle::{
    GroupDescription, GroupPartition, Log, LogBuilder, MemberDescription, OffsetChange, Reset, RetentionHold,
};
pub use log::maintenance::Compacted;
pub use log::report::RecoveryReport;
pub use log::settings::{Compression, Durability, TopicSettings};
pub use producer::{Batch, Delivery, Receipt, SendError};
pub use record::{Header, Headers, IntoBytes, Message, Record, RecordRef};
pub use replay::{BlockingReplay, RecordView, Replay, Start};
pub use sourcing::{
    Aggregate, ApplyError, EventStream, Loaded, Progress, Projection, ProjectionBuilder, ProjectionState, Rebuild,
    Snapshot,
};
pub use topic::{PartitionDescription, Topic, TopicDescription};
pub use transaction::Transaction;
