//! How far a replay is, in the compacted topic `<name>.replay`: a record for each partition, its key `<topic>/<partition>`.

use std::collections::BTreeMap;

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, TopicName,
    log::{Offset, PartitionId, Settlement, TopicSpec},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::range::Range;
use crate::{
    bus::{Bus, PublishError},
    scan::scan,
};

/// The newest format that is written and read.
const FORMAT: u8 = 1;

/// The topic of a replay.
#[derive(Debug)]
pub(super) struct Checkpoint {
    topic: TopicName,
    bus: Bus,
}

/// What was kept of each partition: of which topic, and the offset below which all has ended.
type Kept = BTreeMap<PartitionId, (Uuid, Offset)>;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    format: u8,
    topic: String,
    topic_id: Uuid,
    partition: i32,
    /// All below has ended.
    settled: Offset,
}

#[derive(Deserialize)]
struct Versioned {
    format: u8,
}

impl Checkpoint {
    /// Makes the topic unless it is there, and reads what was kept.
    pub(super) async fn open(name: &str, bus: &Bus) -> Result<(Self, Kept), LogError> {
        let topic = TopicName::new(&format!("{name}.replay"))?;
        let (log, mut kept) = (bus.log(), Kept::new());
        let mut spec = TopicSpec::new(topic.clone());
        (spec.partitions, spec.compacted) = (Some(1), true);
        log.ensure_topic(spec).await?;
        let end = log.end_offsets(&topic).await?.first().copied().unwrap_or(0);
        let place = PartitionId { topic: topic.clone(), partition: 0 };
        let end = if aqueduct_core::planted("replay-forgets-its-checkpoint") { 0 } else { end };
        scan(&**log, &place, end, |record| {
            let message = read(&record).map_err(|reason| {
                LogError::new(LogErrorKind::Format, format!("the checkpoint at {record:?} {reason}"))
            })?;
            let id = PartitionId { topic: TopicName::new(&message.topic)?, partition: message.partition };
            kept.insert(id, (message.topic_id, message.settled));
            Ok(())
        })
        .await?;
        Ok((Self { topic, bus: bus.clone() }, kept))
    }

    /// Keeps where partitions stand.
    pub(super) async fn keep(&self, settlements: &[Settlement], range: &Range) -> Result<(), LogError> {
        let mut records = Vec::with_capacity(settlements.len());
        for Settlement { partition: id, offset, .. } in settlements {
            let Some(topic_id) = range.topic_id(id) else { continue };
            let (topic, partition) = (id.topic.to_string(), id.partition);
            let message = Message { format: FORMAT, topic, topic_id, partition, settled: *offset };
            let value = serde_json::to_vec(&message).map_err(|error| {
                LogError::with_source(LogErrorKind::Configuration, "a checkpoint does not encode", error)
            })?;
            records.push(NewRecord {
                topic: self.topic.clone(),
                partition: Some(0),
                key: Some(id.to_string().into()),
                headers: Headers::default(),
                value: Some(value.into()),
                timestamp: self.bus.environment().now(),
            });
        }
        match self.bus.publish_records(records).await {
            Ok(_) => Ok(()),
            Err(PublishError::Log { source, .. } | PublishError::Batch { source, .. }) => Err(source),
            Err(PublishError::Encode(error)) => {
                Err(LogError::with_source(LogErrorKind::Configuration, "a checkpoint does not encode", error))
            }
        }
    }
}

fn read(record: &Record) -> Result<Message, String> {
    let value = record.value().ok_or("has no value")?;
    let undecodable = |error: serde_json::Error| format!("does not decode: {error}");
    // A newer one may have other fields.
    let Versioned { format } = serde_json::from_slice(value).map_err(undecodable)?;
    if format > FORMAT {
        return Err(format!("is of format {format}, newer than {FORMAT}"));
    }
    serde_json::from_slice(value).map_err(undecodable)
}
