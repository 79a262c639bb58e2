//! What an error of Kafka means to whoever has to go on.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::config::is_secret;
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
        | C::InvalidPartitions
        | C::InvalidReplicationFactor
        | C::InvalidReplicaAssignment
        | C::TopicAlreadyExists
        | C::InvalidRecord
        | C::InvalidRequiredAcks
        | C::PolicyViolation
        | C::UnsupportedForMessageFormat
        | C::BadMessage
        | C::BadCompression
        | C::OffsetOutOfRange
        | C::AutoOffsetReset
        | C::NoOffset
        | C::LogTruncation => Class::Partition,
        C::Fatal
        | C::Fenced
        | C::ProducerFenced
        | C::FencedInstanceId
        | C::InvalidProducerEpoch
        | C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::SecurityDisabled
        | C::UnacceptableCredential
        | C::SSL
        | C::ClusterAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::DelegationTokenAuthDisabled
        | C::DelegationTokenNotFound
        | C::DelegationTokenOwnerMismatch
        | C::DelegationTokenRequestNotAllowed
        | C::DelegationTokenAuthorizationFailed
        | C::DelegationTokenExpired
        | C::InvalidTransactionTimeout
        | C::InvalidGroupId
        | C::UnsupportedVersion
        | C::UnsupportedFeature
        | C::UnsupportedCompressionType
        | C::NotImplemented
        | C::InvalidArgument
        | C::InvalidConfig => Class::Fatal,
        _ => Class::Passing,
    }
}

/// The code of an error, where it has one.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// What to do about an error that was made [out of one of Kafka's](from_kafka).
pub(crate) fn class_of(error: &Error) -> Class {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<KafkaError>());
    match (source.and_then(code), error.kind()) {
        (Some(code), _) => class(code),
        (None, ErrorKind::Unavailable) => Class::Passing,
        (None, _) => Class::Fatal,
    }
}

/// The public kind of a code.
pub(super) fn kind(code: Code) -> ErrorKind {
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId => ErrorKind::Fenced,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::UnacceptableCredential
        | Code::SSL
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenExpired => ErrorKind::Denied,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => ErrorKind::NotFound,
        Code::TopicAlreadyExists => ErrorKind::AlreadyExists,
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::NoOffset => ErrorKind::OffsetOutOfRange,
        Code::LogTruncation => ErrorKind::Mismatch,
        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedCompressionType
        | Code::NotImplemented
        | Code::UnsupportedForMessageFormat => ErrorKind::Unsupported,
        code if class(code) == Class::Passing => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}

/// The public error for one of Kafka's.
pub(crate) fn from_kafka(context: impl Into<String>, error: KafkaError) -> Error {
    match (&error, code(&error)) {
        (_, Some(code)) => Error::with_source(kind(code), context, error),
        // The library repeats the value, be it a password.
        (KafkaError::ClientConfig(_, _, property, _), None) if is_secret(property) => {
            let context = context.into();
            Error::invalid(format!("{context}: the property `{property}` is not one that the client library takes"))
        }
        (KafkaError::ClientConfig(_, why, ..), None) => {
            let context = context.into();
            Error::invalid(format!("{context}: {why}"))
        }
        // The client went away while it was asked.
        (KafkaError::Canceled | KafkaError::NoMessageReceived, None) => {
            Error::with_source(ErrorKind::Unavailable, context, error)
        }
        (_, None) => Error::with_source(ErrorKind::Invalid, context, error),
    }
}

/// The public error for a code that came with a sentence.
pub(crate) fn from_code(context: impl Into<String>, code: Code, reason: String) -> Error {
    Error::with_source(kind(code), context, Reported(reason))
}

/// What the client library says in the background.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reported(String);

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;
    use rdkafka::error::RDKafkaErrorCode as Code;
    use rdkafka::types::RDKafkaConfRes;

    use super::{Class, class, from_kafka};
    use crate::error::ErrorKind;

    #[test]
    fn each_code_has_its_class_and_kind() {
        let unavailable = ErrorKind::Unavailable;
        let passing = [
            // The leader changes.
            Code::LeaderNotAvailable,
            Code::NotLeaderForPartition,
            Code::FencedLeaderEpoch,
            Code::UnknownLeaderEpoch,
            Code::PreferredLeaderNotAvailable,
            // Replicas are missing.
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::ReplicaNotAvailable,
            Code::KafkaStorageError,
            // No answer in time.
            Code::RequestTimedOut,
            Code::OperationTimedOut,
            Code::MessageTimedOut,
            Code::TimedOutQueue,
            Code::NetworkException,
            Code::BrokerTransportFailure,
            Code::AllBrokersDown,
            Code::Resolve,
            Code::CoordinatorNotAvailable,
            Code::CoordinatorLoadInProgress,
            Code::NotCoordinator,
            Code::QueueFull,
            // Slowed down.
            Code::ThrottlingQuotaExceeded,
            Code::ConcurrentTransactions,
        ];
        let partition = [
            (Code::TopicAuthorizationFailed, ErrorKind::Denied),
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound),
            (Code::UnknownTopic, ErrorKind::NotFound),
            (Code::UnknownPartition, ErrorKind::NotFound),
            (Code::MessageSizeTooLarge, ErrorKind::Invalid),
            (Code::MessageBatchTooLarge, ErrorKind::Invalid),
            (Code::InvalidTimestamp, ErrorKind::Invalid),
            (Code::OffsetOutOfRange, ErrorKind::OffsetOutOfRange),
        ];
        let fatal = [
            (Code::Fenced, ErrorKind::Fenced),
            (Code::ProducerFenced, ErrorKind::Fenced),
            (Code::InvalidProducerEpoch, ErrorKind::Fenced),
            (Code::Authentication, ErrorKind::Denied),
            (Code::SaslAuthenticationFailed, ErrorKind::Denied),
            (Code::SSL, ErrorKind::Denied),
            (Code::ClusterAuthorizationFailed, ErrorKind::Denied),
            (Code::TransactionalIdAuthorizationFailed, ErrorKind::Denied),
            (Code::UnsupportedVersion, ErrorKind::Unsupported),
        ];
        let all = (passing.map(|code| (code, unavailable, Class::Passing)).into_iter())
            .chain(partition.map(|(code, kind)| (code, kind, Class::Partition)))
            .chain(fatal.map(|(code, kind)| (code, kind, Class::Fatal)));
        for (code, kind, expected) in all {
            assert_eq!(class(code), expected, "{code:?}");
            for error in [KafkaError::Global(code), KafkaError::AdminOp(code), KafkaError::MessageProduction(code)] {
                let error = from_kafka("cannot send to topic orders", error);
                assert_eq!(super::class_of(&error), expected, "{code:?}");
                assert_eq!(error.kind(), kind, "{code:?}");
                assert!(error.to_string().starts_with("cannot send to topic orders: "), "{error}");
            }
        }
    }

    #[test]
    fn no_value_of_a_property_is_repeated_where_it_may_be_a_secret() {
        for property in ["sasl.password", "ssl.key.pem", "ssl.key.password", "sasl.jaas.config"] {
            let why = "Invalid value \"hunter2\"".to_owned();
            let refused = RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
            let error = KafkaError::ClientConfig(refused, why, property.into(), "hunter2".into());
            let error = from_kafka("refused", error);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
            assert!(error.to_string().contains(property), "{error}");
        }
    }
}
