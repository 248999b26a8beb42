//! What an operator does with parked keys: look at them, and release them.

use std::collections::BTreeMap;

use aqueduct_core::{
    LogError, LogErrorKind, Record, Timestamp, TopicName,
    log::{Offset, PartitionId, Start},
};
use bytes::Bytes;
use uuid::Uuid;

use super::{
    control::{self, Asked},
    frame,
};
use crate::bus::{Bus, PublishError};

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

/// A release could not be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The group's control topic cannot be made ready.
    #[error("releasing keys of group {group}: {source}")]
    Log {
        /// The group.
        group: String,
        /// What the log said.
        source: LogError,
    },
    /// The request was not stored.
    #[error("releasing keys of group {group}: {source}")]
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
    let log = bus.log();
    let place = super::topic_of(group, topic)?;
    let (Some(source), Some(_)) = (log.describe_topic(topic).await?, log.describe_topic(&place).await?)
    else {
        return Ok(Vec::new());
    };
    let mut keys = Vec::new();
    for (partition, end) in (0..).zip(log.end_offsets(&place).await?) {
        let from = PartitionId { topic: topic.clone(), partition };
        let mut reader =
            log.cursor(&PartitionId { topic: place.clone(), partition }, Start::Earliest).await?;
        let mut records: BTreeMap<Offset, ParkedKey> = BTreeMap::new();
        while reader.position() < end {
            let batch = reader.read(512).await?;
            for record in Record::all(&batch) {
                let Some(offset) = record.key().and_then(|key| frame::source_offset(key, source.id)) else {
                    continue;
                };
                match record.value() {
                    None => {
                        records.remove(&offset);
                    }
                    Some(value) => {
                        records.insert(offset, describe(&record, value, &from, offset)?);
                    }
                }
            }
        }
        let mut first: BTreeMap<Bytes, usize> = BTreeMap::new();
        for (_, record) in records {
            let index = *first.entry(record.key.clone()).or_insert_with(|| {
                keys.push(ParkedKey { records: 0, ..record });
                keys.len() - 1
            });
            keys[index].records += 1;
        }
    }
    Ok(keys)
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
) -> Result<Uuid, ReleaseError> {
    let log = |source: LogError| ReleaseError::Log { group: group.to_owned(), source };
    super::ensure_control(&**bus.log(), group).await.map_err(log)?;
    let topic = super::control_topic(group).map_err(|error| log(error.into()))?;
    let asked = Asked { id: bus.environment().new_id(), partition: partition.clone(), key: key.to_vec() };
    let record = control::ask(&topic, &asked, bus.environment().now()).map_err(|error| {
        log(LogError::with_source(LogErrorKind::Configuration, "the request does not encode", error))
    })?;
    bus.publish_records(vec![record])
        .await
        .map_err(|source| ReleaseError::Publish { group: group.to_owned(), source })?;
    Ok(asked.id)
}
