//! Dead letters: the record set aside for good, byte for byte, with its reason.

use std::fmt::Display;

use aqueduct_core::{
    LogError, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, TopicSpec},
    name::NameError,
};
use bytes::Bytes;

/// The topic of a group's dead letters of `topic`.
///
/// # Errors
/// The two names together are no name.
pub fn topic_of(group: &str, topic: &TopicName) -> Result<TopicName, NameError> {
    TopicName::new(&format!("{group}.{topic}.dead"))
}

/// Longest reason kept, in characters: an error text may quote a whole payload.
const MAX_REASON: usize = 2_000;

/// A reason of bounded length.
pub(crate) fn shorten(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// Makes the dead-letter topic of `topic`, with as many partitions.
pub(crate) async fn ensure(log: &dyn CommitLog, group: &str, topic: &TopicName) -> Result<(), LogError> {
    let mut spec = TopicSpec::new(topic_of(group, topic)?);
    spec.partitions = log.describe_topic(topic).await?.and_then(|info| info.spec.partitions);
    crate::parking::follow(log, spec).await
}

/// The dead letter of a record.
pub(crate) fn letter(
    group: &str,
    record: &Record,
    reason: &str,
    attempts: u32,
    now: Timestamp,
) -> Result<NewRecord, LogError> {
    let mut headers = record.headers();
    if aqueduct_core::planted("letter-drops-headers") {
        headers = aqueduct_core::record::HeadersBuilder::new();
    }
    let mut put =
        |name: &str, value: &dyn Display| headers.push(name.as_bytes(), Some(value.to_string().as_bytes()));
    put("aqueduct_dead_format", &1);
    put("aqueduct_dead_reason", &shorten(reason));
    put("aqueduct_dead_topic", record.topic());
    put("aqueduct_dead_partition", &record.partition());
    put("aqueduct_dead_offset", &record.offset());
    put("aqueduct_dead_timestamp", &record.timestamp().as_micros());
    put("aqueduct_dead_attempts", &attempts);
    Ok(NewRecord {
        topic: topic_of(group, record.topic())?,
        partition: Some(record.partition()),
        key: record.key().map(Bytes::copy_from_slice),
        headers: headers.build(),
        value: record.value().map(Bytes::copy_from_slice),
        timestamp: now,
    })
}
