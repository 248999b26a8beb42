//! One program of a run: what it shares with its log, its database and its handlers.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aqueduct_core::{effects::EffectsError, log::PartitionId};
use aqueduct_memory::MemoryLog;

use super::{
    clock::VirtualClock,
    observer::{Observer, Seen},
};

/// One program of a run, from its start to its end.
pub struct Process {
    name: String,
    number: usize,
    pub(crate) log: MemoryLog,
    pub(crate) clock: VirtualClock,
    observer: Arc<dyn Observer>,
    /// The generation under which it was given each partition last.
    given: Mutex<BTreeMap<PartitionId, i64>>,
    /// The same, of partitions that it has begun to read.
    reading: Mutex<BTreeMap<PartitionId, i64>>,
}

impl Process {
    pub(crate) fn new(
        name: String,
        number: usize,
        log: MemoryLog,
        clock: VirtualClock,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        let (given, reading) = (Mutex::default(), Mutex::default());
        Arc::new(Self { name, number, log, clock, observer, given, reading })
    }

    /// Its name and incarnation, such as `app-2.3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, which its next incarnation has too.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// The run's clock.
    #[must_use]
    pub fn clock(&self) -> VirtualClock {
        self.clock
    }

    /// Whether it was killed: what still runs of it then is about to be dropped, and nobody would see it.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.log.faults().is_killed(&self.log)
    }

    /// The generation under which it reads a partition.
    #[must_use]
    pub fn generation(&self, partition: &PartitionId) -> i64 {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.get(partition).copied().unwrap_or(0)
    }

    /// The generation under which it was given a partition last.
    pub(crate) fn given(&self, partition: &PartitionId) -> i64 {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get(partition).copied().unwrap_or(0)
    }

    pub(crate) fn give(&self, partition: &PartitionId, generation: i64) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), generation);
    }

    pub(crate) fn read(&self, partition: &PartitionId, generation: i64) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer for an older one may be the later.
        let newest = reading.entry(partition.clone()).or_insert(generation);
        *newest = generation.max(*newest);
    }

    /// Tells the observer, unless nobody could have seen it.
    pub(crate) fn saw(&self, seen: Seen<'_>) {
        if !self.is_killed() {
            self.observer.saw(self.clock.elapsed(), &self.name, seen);
        }
    }

    /// Waits while it is paused.
    pub(crate) async fn turn(&self) -> Result<(), EffectsError> {
        let turn = self.log.faults().turn(&self.log).await;
        turn.map_err(|error| EffectsError::new("asking the database", error))
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.log.faults().is_paused(&self.log)
    }

    pub(crate) fn kill(&self) {
        self.log.faults().crash(&self.log);
    }

    pub(crate) fn pause(&self) {
        self.log.faults().pause(&self.log);
    }

    pub(crate) fn resume(&self) {
        self.log.faults().resume(&self.log);
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).finish_non_exhaustive()
    }
}
