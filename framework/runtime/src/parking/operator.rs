//! What an operator does: look at parked keys, release them, pass over what cannot be read.

use std::{collections::BTreeMap, ops::Range};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{Offset, PartitionId},
};
use bytes::Bytes;
use uuid::Uuid;

use super::{
    control::{self, Asked, Skip},
    frame,
};
use crate::{
    bus::{Bus, PublishError},
    scan::scan,
};

/// A key that waits, with its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// The partition that its records came from.
    pub partition: PartitionId,
    /// The key.
    pub key: Bytes,
    /// How many records of it wait.
    pub records: usize,
    /// The offset of the first.
    pub offset: Offset,
    /// Why the first was parked.
    pub reason: String,
    /// How often the first was attempted.
    pub attempts: u32,
    /// When the first was parked, or failed again after a release.
    pub since: Timestamp,
    /// When it is released by itself; none where an operator must do it.
    pub due: Option<Timestamp>,
}

/// What an operator asks of a group could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The request is wrong, or the group's control topic cannot be made ready.
    #[error("asking group {group}: {source}")]
    Log {
        /// The group.
        group: String,
        /// What the log said.
        source: LogError,
    },
    /// The request was not stored.
    #[error("asking group {group}: {source}")]
    Publish {
        /// The group.
        group: String,
        /// What publishing said.
        source: PublishError,
    },
}

/// The parked keys of `topic` under a group, by partition and first offset.
///
/// # Errors
/// The log does not answer, or a parked record cannot be read.
pub async fn parked(bus: &Bus, group: &str, topic: &TopicName) -> Result<Vec<ParkedKey>, LogError> {
    Ok(keys(bus, group, topic).await?.unwrap_or_default())
}

/// As [`parked`]; none where the log does not know the topic of parked records, or that of their source.
pub(crate) async fn keys(
    bus: &Bus,
    group: &str,
    topic: &TopicName,
) -> Result<Option<Vec<ParkedKey>>, LogError> {
    let log = bus.log();
    let place = super::topic_of(group, topic)?;
    let (Some(source), Some(_)) = (log.describe_topic(topic).await?, log.describe_topic(&place).await?)
    else {
        return Ok(None);
    };
    let mut keys = Vec::new();
    for (partition, end) in (0..).zip(log.end_offsets(&place).await?) {
        let from = PartitionId { topic: topic.clone(), partition };
        let mut records: BTreeMap<Offset, ParkedKey> = BTreeMap::new();
        scan(&**log, &PartitionId { topic: place.clone(), partition }, end, |record| {
            let Some(offset) = record.key().and_then(|key| frame::source_offset(key, source.id)) else {
                return Ok(());
            };
            match record.value() {
                None => records.remove(&offset),
                Some(value) => records.insert(offset, describe(&record, value, &from, offset)?),
            };
            Ok(())
        })
        .await?;
        let mut first: BTreeMap<Bytes, usize> = BTreeMap::new();
        for (_, record) in records {
            let index = *first.entry(record.key.clone()).or_insert_with(|| {
                keys.push(ParkedKey { records: 0, ..record });
                keys.len() - 1
            });
            keys[index].records += 1;
        }
    }
    Ok(Some(keys))
}

fn describe(
    record: &Record,
    value: &[u8],
    partition: &PartitionId,
    offset: Offset,
) -> Result<ParkedKey, LogError> {
    let damaged =
        |error| LogError::with_source(LogErrorKind::Corrupt, format!("the parked record {record:?}"), error);
    let frame = frame::read(value).map_err(damaged)?;
    Ok(ParkedKey {
        partition: partition.clone(),
        key: frame.key.ok_or_else(|| damaged("it has no key".into()))?,
        records: 1,
        offset,
        reason: frame.description.reason,
        attempts: frame.description.attempts,
        since: record.timestamp(),
        due: frame.description.due,
    })
}

/// Asks for the release of a parked key: the owner of its partition handles the key's records in order, each attempted
/// anew. The first that fails again ends the release, and stays parked with those behind it. The answer is the
/// release's id, once the log holds the request; what became of it shows in [`parked`].
///
/// # Errors
/// The request was not stored.
pub async fn release(
    bus: &Bus,
    group: &str,
    partition: &PartitionId,
    key: &[u8],
) -> Result<Uuid, OperatorError> {
    let asked = Asked { id: bus.environment().new_id(), partition: partition.clone(), key: key.to_vec() };
    ask(bus, group, |topic, now| control::ask(topic, &asked, now)).await?;
    Ok(asked.id)
}

/// Passes over offsets that can never be read ([`LogErrorKind::Unreadable`]), or were removed by retention before this group
/// had read them: the partition stopped at them, and its owner goes on behind. What the records there said is lost to this group. The request stays in the group's control topic,
/// so that each later owner passes them too, and anyone can see what was passed; offsets that can be read are
/// delivered whatever was asked.
///
/// # Errors
/// The offsets are none, the topic does not exist, or the request was not stored.
pub async fn skip(
    bus: &Bus,
    group: &str,
    partition: &PartitionId,
    offsets: Range<Offset>,
) -> Result<(), OperatorError> {
    let wrong = |source: LogError| OperatorError::Log { group: group.to_owned(), source };
    if offsets.start < 0 || offsets.is_empty() {
        let message = format!("offsets {} to {} of {partition} are none", offsets.start, offsets.end);
        return Err(wrong(LogError::new(LogErrorKind::Configuration, message)));
    }
    let described = bus.log().describe_topic(&partition.topic).await.map_err(wrong)?;
    let missing =
        || LogError::new(LogErrorKind::TopicMissing, format!("topic {} does not exist", partition.topic));
    let topic_id = described.ok_or_else(|| wrong(missing()))?.id;
    let passed = Skip { partition: partition.clone(), topic_id, offsets };
    let id = bus.environment().new_id();
    ask(bus, group, |topic, now| control::skip(topic, id, &passed, now)).await
}

/// Stores a request in the group's control topic.
async fn ask(
    bus: &Bus,
    group: &str,
    request: impl FnOnce(&TopicName, Timestamp) -> Result<NewRecord, serde_json::Error>,
) -> Result<(), OperatorError> {
    let log = |source: LogError| OperatorError::Log { group: group.to_owned(), source };
    super::ensure_control(&**bus.log(), group).await.map_err(log)?;
    let topic = super::control_topic(group).map_err(|error| log(error.into()))?;
    let record = request(&topic, bus.environment().now()).map_err(|error| {
        log(LogError::with_source(LogErrorKind::Configuration, "the request does not encode", error))
    })?;
    bus.publish_records(vec![record])
        .await
        .map_err(|source| OperatorError::Publish { group: group.to_owned(), source })?;
    Ok(())
}
