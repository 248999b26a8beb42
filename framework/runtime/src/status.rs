//! What a subscription says of itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::log::{Offset, PartitionId};

/// One partition as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The settled offset.
    pub settled: Offset,
    /// Deliveries above it.
    pub in_flight: usize,
    /// Why it stopped, if it did: nothing of it is handled until the process starts again.
    pub stopped: Option<String>,
    /// What it waits for outside of itself, such as a database that does not answer.
    pub waiting: Option<String>,
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
    /// Its partitions in this process.
    pub partitions: BTreeMap<PartitionId, PartitionStatus>,
    /// Deliveries that ended.
    pub ended: u64,
    /// Attempts that failed and were tried again.
    pub retried: u64,
    /// Records set aside.
    pub dead_letters: u64,
}

impl SubscriptionStatus {
    /// Joined once, and nothing stopped. Without partitions it is ready too: others have them.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.joined && self.partitions.values().all(|partition| partition.stopped.is_none())
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
