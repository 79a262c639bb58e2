//! What an error of Kafka means to whoever has to go on.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{Error, ErrorKind};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It passes: wait, and try again.
    Passing,
    /// It is about this partition or record: the others can go on.
    Partition,
    /// Nothing can go on.
    Fatal,
}

/// What to do about an error with this code.
pub(crate) fn class(code: Code) -> Class {
    use Code as C;
    match code {
        C::TopicAuthorizationFailed
        | C::UnknownTopicOrPartition
        | C::UnknownTopic
        | C::UnknownPartition
        | C::MessageSizeTooLarge
        | C::InvalidMessageSize
        | C::MessageBatchTooLarge
        | C::InvalidTimestamp
        | C::InvalidTopic
        | C::InvalidRecord
        | C::InvalidRequiredAcks
        | C::PolicyViolation
        | C::UnsupportedForMessageFormat => Class::Partition,
        C::Fenced
        | C::ProducerFenced
        | C::InvalidProducerEpoch
        | C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::SecurityDisabled
        | C::SSL
        | C::ClusterAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::InvalidTransactionTimeout
        | C::UnsupportedVersion
        | C::UnsupportedFeature
        | C::InvalidConfig => Class::Fatal,
        _ => Class::Passing,
    }
}

/// The public error for one of Kafka's.
pub(crate) fn from_kafka(context: impl Into<String>, error: KafkaError) -> Error {
    let kind = match error.rdkafka_error_code() {
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => ErrorKind::Fenced,
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::SSL
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => ErrorKind::Denied,
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => ErrorKind::NotFound,
        Some(Code::UnsupportedVersion | Code::UnsupportedFeature) => ErrorKind::Unsupported,
        Some(code) if class(code) == Class::Passing => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    };
    Error::with_source(kind, context, error)
}
