//! What a run leaves behind, for invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aqueduct_core::{EventId, LogError, Record, cloudevents::Incoming};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::ParkedKey;

use super::{
    database::{Rows, Stored},
    plan::Plan,
    tables::Tables,
};

/// The world when all is settled and every process has ended.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    topics: BTreeMap<String, Vec<Record>>,
    tables: Tables,
    rejected: usize,
    parked: Vec<ParkedKey>,
    summary: Summary,
}

/// What happened in a run, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Each kind of fault, and how often: those of the schedule by their names, those of single calls by what failed.
    pub faults: BTreeMap<&'static str, u64>,
    /// Apps that ended by themselves, and why: they were started again.
    pub gave_up: Vec<String>,
    /// Records in the log at the end.
    pub records: u64,
    /// The virtual time that it took, in milliseconds.
    pub virtual_millis: u64,
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.gave_up.extend(other.gave_up);
        self.records += other.records;
        self.virtual_millis += other.virtual_millis;
    }
}

impl World {
    /// Reads everything.
    pub(crate) fn read(
        plan: &Plan,
        log: &MemoryLog,
        stored: &Arc<Stored>,
        rejected: usize,
        parked: Vec<ParkedKey>,
        mut summary: Summary,
    ) -> Result<Self, LogError> {
        let mut read = BTreeMap::new();
        for topic in log.topics() {
            let records = log.journal(&topic)?;
            summary.records += u64::try_from(records.len()).unwrap_or(u64::MAX);
            read.insert(topic.to_string(), records);
        }
        let tables = std::mem::take(&mut *stored.tables());
        Ok(Self { plan: plan.clone(), topics: read, tables, rejected, parked, summary })
    }

    /// The run's options.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every record that a topic ever held, by partition and offset; none where there is no such topic.
    #[must_use]
    pub fn records(&self, topic: &str) -> &[Record] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// The topics that hold anything.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }

    /// The ids of the events that a topic holds: an event that was published twice under one id counts once.
    #[must_use]
    pub fn ids(&self, topic: &str) -> BTreeSet<EventId> {
        let read = |record| Incoming::read(record, None).ok().map(|incoming| incoming.id());
        self.records(topic).iter().filter_map(read).collect()
    }

    /// The committed rows of the database.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows(&self.tables)
    }

    /// How many events were published and never acknowledged; some of them may be in the log.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.rejected
    }

    /// The keys that are parked at the end.
    #[must_use]
    pub fn parked(&self) -> &[ParkedKey] {
        &self.parked
    }

    /// What happened.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}
