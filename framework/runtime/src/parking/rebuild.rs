//! Reads what is parked from the log, before anything of the partition is delivered.

use std::collections::{BTreeMap, HashSet};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{CommitLog, Offset, PartitionId},
};
use uuid::Uuid;

use super::{
    frame,
    index::{Copy, ParkedKeys},
};
use crate::{lanes::KeyBytes, scan::scan};

/// What the parked partition holds.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    pub(crate) parked: ParkedKeys,
    /// Source offsets that are parked or were handled after a release: they have ended.
    pub(crate) ended: HashSet<Offset>,
}

/// Reads the parked records of `source` under `group`, up to the end that the parked partition has now. `parks`: its topic was
/// made when the subscription started, so where the log does not know it, or not all of it, the log is behind, as a broker
/// that was just started. To take that for nothing parked would let all parked keys be overtaken.
pub(crate) async fn rebuild(
    log: &dyn CommitLog,
    group: &str,
    source: &PartitionId,
    topic_id: Uuid,
    from: Offset,
    parks: bool,
) -> Result<Rebuilt, LogError> {
    let mut rebuilt = Rebuilt::default();
    let topic = super::topic_of(group, &source.topic)?;
    if aqueduct_core::planted("nothing-rebuilt") {
        return Ok(rebuilt);
    }
    let ends = match log.describe_topic(&topic).await? {
        Some(_) => log.end_offsets(&topic).await?,
        None => Vec::new(),
    };
    let end = usize::try_from(source.partition).ok().and_then(|number| ends.get(number).copied());
    let Some(end) = end else {
        if !parks || aqueduct_core::planted("unknown-topic-taken-for-none") {
            return Ok(rebuilt);
        }
        match super::ensure(log, group, &source.topic).await {
            // Where topics are not to be made: it was there at the start.
            Err(error) if error.kind() != LogErrorKind::TopicMissing => return Err(error),
            _ => {}
        }
        let known = ends.len();
        let message = format!("the log knows {known} partitions of {topic}, which has more");
        return Err(LogError::new(LogErrorKind::Unreachable, message));
    };
    let place = PartitionId { topic, partition: source.partition };
    let mut found: BTreeMap<Offset, (KeyBytes, Copy)> = BTreeMap::new();
    let mut foreign = 0_usize;
    scan(log, &place, end, |record| {
        let Some(offset) = record.key().and_then(|key| frame::source_offset(key, topic_id)) else {
            foreign += 1;
            return Ok(());
        };
        match record.value() {
            None => {
                found.remove(&offset);
            }
            Some(value) => {
                let damaged = |reason: &str| {
                    let message = format!("the parked record {record:?} cannot be read: {reason}");
                    LogError::new(LogErrorKind::Corrupt, message)
                };
                let read = frame::read(value).map_err(|error| damaged(&error.to_string()))?;
                let key = read.key.ok_or_else(|| damaged("it has no key"))?;
                let copy = Copy { at: record.offset(), due: read.description.due };
                found.insert(offset, (KeyBytes::from(&*key), copy));
            }
        }
        if offset >= from {
            rebuilt.ended.insert(offset);
        }
        Ok(())
    })
    .await?;
    if foreign > 0 {
        tracing::warn!(parked = %place, foreign, "parked records of an earlier topic of that name are left alone");
    }
    for (offset, (key, copy)) in found {
        rebuilt.parked.found(&key, offset, copy);
    }
    Ok(rebuilt)
}
