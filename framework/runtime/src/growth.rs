//! Partitions that were added to a topic (RULES R2): a key may have moved to one, and what it left in an older partition
//! comes first. So they wait until the older ones have been handled up to where they ended when the new one had its first
//! record, and hold no parked key.
//!
//! What a kill leaves: nothing is settled in a partition that waits, so its next owner finds out the same.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Assignment, Offset, PartitionId, Settled},
};
use tokio_util::sync::CancellationToken;

use crate::{delivery::Shared, noted::Noted, parking, policy::OnFailure, running::Running};

/// How often a partition that waits looks.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// A topic, asked for once for all its partitions that are taken up.
type Topics = HashMap<TopicName, (i32, Vec<Option<Settled>>)>;

/// What was found out of a partition before it is taken up.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// What is kept with its settled offset.
    pub(crate) noted: Noted,
    /// It was added, and is begun for the first time: so many partitions were there before.
    pub(crate) older: Option<i32>,
    /// It cannot be taken up.
    pub(crate) refused: Option<String>,
}

impl<S: Clone + Send + Sync + 'static> Running<S> {
    /// Looks at a partition that was assigned; none where the subscription ends before the log answers.
    pub(super) async fn find(
        &self,
        assignment: &Assignment,
        topics: &mut Topics,
        stop: &CancellationToken,
    ) -> Result<Option<Found>, LogError> {
        let mut failures = 0;
        loop {
            let error = match self.look(assignment, topics).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) if error.kind() == LogErrorKind::Unreachable => error,
                Err(error) => return Err(error),
            };
            failures += 1;
            if !self.pause(&assignment.partition, &error.to_string(), failures, stop).await {
                return Ok(None);
            }
        }
    }

    async fn look(&self, assignment: &Assignment, topics: &mut Topics) -> Result<Found, LogError> {
        let Assignment { partition, topic_id, settled, .. } = assignment;
        let kept = settled.as_ref().and_then(|settled| Noted::read(&settled.metadata));
        if let Some(noted) = kept {
            let anew = noted.topic_id != *topic_id && !aqueduct_core::planted("topic-made-anew-goes-on");
            let refused = anew.then(|| {
                format!(
                    "topic {} was deleted and made anew: the group's settled offset is of the one before (id {}, now {topic_id}); reset the group's offsets to go on",
                    partition.topic, noted.topic_id
                )
            });
            return Ok(Found { noted: Noted { batch: None, ..noted }, older: None, refused });
        }
        if !topics.contains_key(&partition.topic) {
            let log = self.shared.bus.log();
            let count = log.end_offsets(&partition.topic).await?.len();
            let settled = log.settled_offsets(self.name(), &partition.topic).await?;
            topics.insert(partition.topic.clone(), (i32::try_from(count).unwrap_or(i32::MAX), settled));
        }
        let Some((count, others)) = topics.get(&partition.topic) else {
            return Err(LogError::new(LogErrorKind::TopicMissing, partition.topic.to_string()));
        };
        let noted = Noted { topic_id: *topic_id, partitions: *count, batch: None };
        // Begun when there were fewer.
        let older = others.iter().flatten().filter_map(|settled| Noted::read(&settled.metadata));
        let older = older.filter(|noted| noted.topic_id == *topic_id).map(|noted| noted.partitions);
        let older = older.filter(|count| *count <= partition.partition).max();
        let older = older.filter(|_| settled.is_none());
        Ok(Found { noted, older, refused: None })
    }
}

/// A partition that was added and waits.
pub(crate) struct Growing {
    pub(crate) partition: PartitionId,
    pub(crate) older: i32,
    /// Where the partitions ended when this one had its first record.
    ends: Option<Vec<Offset>>,
    prepared: bool,
}

impl Growing {
    pub(crate) fn new(partition: PartitionId, older: i32) -> Self {
        Self { partition, older, ends: None, prepared: false }
    }

    /// What it waits for, if it still does.
    pub(crate) async fn waits<S: Send + Sync + 'static>(
        &mut self,
        shared: &Arc<Shared<S>>,
    ) -> Result<Option<String>, LogError> {
        let (log, group) = (shared.bus.log(), shared.subscription.name.as_str());
        let PartitionId { topic, partition } = &self.partition;
        if !self.prepared && shared.subscription.on_failure == OnFailure::Park {
            parking::ensure(&**log, group, topic).await?;
        }
        self.prepared = true;
        if shared.subscription.unordered_growth || aqueduct_core::planted("growth-not-waited") {
            return Ok(None);
        }
        let older = usize::try_from(self.older).unwrap_or(0);
        let ends = match &self.ends {
            Some(ends) => ends,
            None => {
                let ends = log.end_offsets(topic).await?;
                let index = usize::try_from(*partition).ok();
                if index.and_then(|index| ends.get(index)).is_none_or(|end| *end == 0) {
                    return Ok(Some(format!("it was added to {topic} and has no record yet")));
                }
                // Once more: the answers for the older ones may be from before it had one.
                self.ends.insert(log.end_offsets(topic).await?)
            }
        };
        let settled = log.settled_offsets(group, topic).await?;
        for (number, end) in ends.iter().enumerate().take(older) {
            let at = settled.get(number).and_then(|settled| Some(settled.as_ref()?.offset)).unwrap_or(0);
            if at < *end {
                return Ok(Some(format!(
                    "it was added to {topic}, and {topic}/{number} is settled up to {at} of {end}, where it ended when this one had its first record: a key may have moved"
                )));
            }
        }
        let parked = parking::parked(&shared.bus, group, topic).await?;
        Ok(parked.iter().find(|key| key.partition.partition < self.older).map(|key| {
            let name = key.key.escape_ascii();
            format!(
                "it was added to {topic}, and {} holds the parked key {name}, which may have moved",
                key.partition
            )
        }))
    }
}
