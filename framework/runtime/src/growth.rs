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
use tokio::sync::watch;

use crate::{
    claims::Taker,
    delivery::Shared,
    noted::Noted,
    owned::Owned,
    parking,
    partition::{Closed, Wish},
    policy::OnFailure,
    progress::Progress,
    running::Running,
    status::PartitionStatus,
};

/// How often a partition that waits looks.
const LOOK: Duration = Duration::from_millis(500);

/// A topic, asked for once for all its partitions that are taken up.
pub(crate) type Topics = HashMap<TopicName, (i32, Vec<Option<Settled>>)>;

/// What was found out of a partition before it is taken up.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// What is kept with its settled offset.
    pub(crate) noted: Noted,
    /// It was added, and is begun for the first time: so many partitions were there before.
    pub(crate) older: Option<i32>,
    /// It need not wait for them any more.
    pub(crate) grown: bool,
    /// It cannot be taken up.
    pub(crate) refused: Option<String>,
}

impl Taker {
    /// Looks at a partition that was assigned.
    pub(crate) async fn look(&self, assignment: &Assignment, topics: &mut Topics) -> Result<Found, LogError> {
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
            return Ok(Found { noted: Noted { batch: None, ..noted }, older: None, grown: false, refused });
        }
        if !topics.contains_key(&partition.topic) {
            let log = self.shared.bus.log();
            let count = log.end_offsets(&partition.topic).await?.len();
            let settled = log.settled_offsets(&self.shared.subscription.name, &partition.topic).await?;
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
        Ok(Found { noted, older, grown: false, refused: None })
    }
}

impl Running {
    /// Lets one that was added wait: nothing of it is taken in the database before.
    pub(super) fn let_grow(&mut self, assignment: Assignment, found: Found, older: i32) {
        let (id, generation) = (assignment.partition.clone(), assignment.generation);
        let growing = Growing { partition: id.clone(), older, ends: None, prepared: false };
        let (wish, wished) = watch::channel(Wish::Run);
        let mut owned = Owned::new(assignment, Arc::new(Progress::new(0, true, &self.hurry)));
        owned.found = Some(found);
        owned.wish = wish;
        owned.grows = true;
        self.shared.board.lock().partitions.insert(id.clone(), PartitionStatus::default());
        self.replace(owned);
        let task = growing.run(Arc::clone(&self.shared), wished);
        self.spawn(id, generation, task);
    }
}

/// A partition that was added and waits.
struct Growing {
    partition: PartitionId,
    older: i32,
    /// Where the partitions ended when this one had its first record.
    ends: Option<Vec<Offset>>,
    prepared: bool,
}

impl Growing {
    /// Waits. `Grown` in the end, unless something else is wished meanwhile.
    async fn run(mut self, shared: Arc<Shared>, mut wished: watch::Receiver<Wish>) -> Closed {
        let partition = self.partition.clone();
        let name = shared.subscription.name.clone();
        let mut looked = false;
        loop {
            let waits = tokio::select! {
                biased;
                changed = wished.changed() => {
                    let wished = if changed.is_ok() { *wished.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => continue,
                        Wish::Drain(_) => return Closed::Drained { unfinished: 0 },
                        Wish::Lost => return Closed::Fenced,
                    }
                }
                waits = async {
                    if looked {
                        tokio::time::sleep(LOOK).await;
                    }
                    self.waits(&shared).await
                } => waits,
            };
            looked = true;
            let waiting = match waits {
                Ok(None) => return Closed::Grown,
                Ok(Some(waiting)) => waiting,
                Err(error) if error.kind() == LogErrorKind::Unreachable => error.to_string(),
                Err(error) => {
                    return Closed::Stopped(format!("it was added and cannot begin: {error}"));
                }
            };
            shared.board.partition(&partition, |status| {
                if status.waiting.as_ref() != Some(&waiting) {
                    tracing::info!(subscription = name, %partition, waiting, "an added partition waits");
                    status.waiting = Some(waiting);
                }
            });
        }
    }

    /// What it waits for, if it still does.
    async fn waits(&mut self, shared: &Arc<Shared>) -> Result<Option<String>, LogError> {
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
        let parked = match parking::keys(&shared.bus, group, topic).await? {
            // It was made before: a log that does not know it is behind.
            None if shared.subscription.on_failure == OnFailure::Park => {
                return Ok(Some(format!(
                    "it was added to {topic}, and the log does not know what is parked of it"
                )));
            }
            parked => parked.unwrap_or_default(),
        };
        Ok(parked.iter().find(|key| key.partition.partition < self.older).map(|key| {
            let name = key.key.escape_ascii();
            format!(
                "it was added to {topic}, and {} holds the parked key {name}, which may have moved",
                key.partition
            )
        }))
    }
}
