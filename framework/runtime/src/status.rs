//! What a subscription says of itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::{
    Timestamp,
    log::{Offset, PartitionId},
};

/// One partition as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionStatus {
    /// The settled offset.
    pub settled: Offset,
    /// Deliveries above it.
    pub in_flight: usize,
    /// Deliveries that ended under this assignment.
    pub ended: u64,
    /// Records that are parked with their keys.
    pub parked: usize,
    /// Why it stopped, if it did: nothing of it is handled until the process starts again, or, where it met records that
    /// can never be read, until an operator has them passed over ([`crate::skip`]).
    pub stopped: Option<String>,
    /// What it waits for outside of itself, such as a database that does not answer.
    pub waiting: Option<String>,
    /// Which delivery holds the settled offset, looked at once a second.
    pub holds: Option<String>,
    /// Why it makes no progress, where it should.
    pub stall: Option<Stall>,
}

/// No progress where there is something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// What stands in the way.
    pub kind: StallKind,
    /// Since when, as far as is known.
    pub since: Timestamp,
    /// In words.
    pub reason: String,
}

/// What stands in a partition's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StallKind {
    /// A delivery holds the settled offset while others end.
    Key,
    /// A delivery holds all: nothing ends.
    Stuck,
    /// Something outside does not answer.
    Outage,
    /// The partition stopped itself.
    Stopped,
    /// The log's client gives nothing, although the log has records.
    Client,
}

/// A subscription at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionStatus {
    /// The consumer group.
    pub name: String,
    /// What it guarantees, in one sentence.
    pub guarantee: String,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Whether it has joined its group at least once.
    pub joined: bool,
    /// Why the log's client is dead, while it is made anew.
    pub client: Option<String>,
    /// Its partitions in this process.
    pub partitions: BTreeMap<PartitionId, PartitionStatus>,
    /// Deliveries that ended.
    pub ended: u64,
    /// Attempts that failed and were tried again.
    pub retried: u64,
    /// Records set aside for good.
    pub dead_letters: u64,
    /// Records parked.
    pub parked: u64,
}

impl SubscriptionStatus {
    /// Joined once, its client alive, and nothing stopped or without progress. A key that fails while others go on is
    /// explained, and does not count. Without partitions it is ready too: others have them.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.joined
            && self.client.is_none()
            && self.partitions.values().all(|partition| {
                (partition.stopped.is_none() || aqueduct_core::planted("stopped-is-ready"))
                    && partition.stall.as_ref().is_none_or(|stall| {
                        stall.kind == StallKind::Key || aqueduct_core::planted("stalled-is-ready")
                    })
            })
    }
}

/// The status that the tasks of a subscription keep up to date.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<SubscriptionStatus>>);

impl Board {
    pub(crate) fn new(status: SubscriptionStatus) -> Self {
        Self(Arc::new(Mutex::new(status)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SubscriptionStatus> {
        // No code of ours panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn partition(&self, id: &PartitionId, change: impl FnOnce(&mut PartitionStatus)) {
        if let Some(partition) = self.lock().partitions.get_mut(id) {
            change(partition);
        }
    }
}
