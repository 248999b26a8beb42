//! The client's errors as errors of the log.

use aqueduct_core::{LogError, LogErrorKind};
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

/// What a code of the client means to a program.
pub(crate) fn kind(code: Code) -> LogErrorKind {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            LogErrorKind::TopicMissing
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            LogErrorKind::RecordTooLarge
        }
        Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced => LogErrorKind::Fenced,
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::AssignmentLost => LogErrorKind::StaleGeneration,
        Code::InconsistentGroupProtocol | Code::GroupMaxSizeReached => LogErrorKind::GroupInUse,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SSL
        | Code::InvalidTopic
        | Code::InvalidArgument
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedCompressionType => LogErrorKind::Configuration,
        Code::BadMessage | Code::InvalidMessage | Code::BadCompression => LogErrorKind::Corrupt,
        // What the client says of batches and codecs that it does not know.
        Code::NotImplemented => LogErrorKind::Format,
        Code::KafkaStorageError | Code::FileSystem => LogErrorKind::Storage,
        Code::SaslAuthenticationFailed | Code::Authentication => LogErrorKind::Unauthenticated,
        // Neither tells whether the broker has it.
        Code::PurgeInflight | Code::MessageTimedOut => LogErrorKind::UnknownOutcome,
        Code::BrokerDestroy | Code::PurgeQueue => LogErrorKind::Closed,
        _ => LogErrorKind::Unreachable,
    }
}

/// An error with what was tried.
pub(crate) fn error(tried: &str, code: Code, said: &str) -> LogError {
    LogError::new(kind(code), format!("{tried}: {said} ({code:?})"))
}

/// As [`error`], from rdkafka's own.
pub(crate) fn client(tried: &str, failed: KafkaError) -> LogError {
    // Its own text has the value, which may be a secret.
    if let KafkaError::ClientConfig(_, _, name, _) = &failed {
        return configuration(format!("{tried}: {name}: the client does not take the value"));
    }
    let kind = failed.rdkafka_error_code().map_or(LogErrorKind::Configuration, kind);
    LogError::with_source(kind, tried.to_owned(), failed)
}

pub(crate) fn configuration(message: String) -> LogError {
    LogError::new(LogErrorKind::Configuration, message)
}

pub(crate) fn closed() -> LogError {
    LogError::new(LogErrorKind::Closed, "the connection to Kafka was closed")
}
