//! Retention and compaction, in steps of at most 1,000 rows, between commits.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use aqueduct_core::log::Offset;
use rusqlite::Connection;

use crate::{compaction, retention, shared::Shared, turn::Turn};

/// Rows per step: some milliseconds.
pub(crate) const STEP_ROWS: i64 = 1_000;
/// Between two runs, unless so many commits come first.
const PAUSE: Duration = Duration::from_secs(60);
const COMMITS: u32 = 10_000;

/// One piece of work on one partition.
#[derive(Debug)]
pub(crate) enum Task {
    Retention(retention::Task),
    Compaction(compaction::Task),
}

/// What is due.
#[derive(Debug)]
pub(crate) struct Maintenance {
    tasks: VecDeque<Task>,
    due: Instant,
    commits: u32,
    /// How far each partition has been compacted by this instance; it starts anew after a restart.
    compacted: HashMap<i64, compaction::Done>,
}

impl Maintenance {
    /// The first run is due at once.
    pub(crate) fn new() -> Self {
        Self { tasks: VecDeque::new(), due: Instant::now(), commits: 0, compacted: HashMap::new() }
    }

    /// A transaction was committed.
    pub(crate) fn committed(&mut self) {
        self.commits += 1;
        if self.commits >= COMMITS {
            self.due = Instant::now();
            self.commits = 0;
        }
    }

    /// How long the writer may sleep; none: until a command comes. Set by the last step.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        (self.due > now).then(|| self.due.duration_since(now))
    }

    /// After a failure the rest of the run is left to the next one.
    pub(crate) fn give_up(&mut self) {
        self.tasks.clear();
        self.due = Instant::now() + PAUSE;
    }

    /// Does one step. Whether there is more to do now.
    pub(crate) fn step(
        &mut self,
        shared: &Shared,
        connection: &Connection,
        turn: &Turn,
    ) -> rusqlite::Result<bool> {
        if self.tasks.is_empty() {
            if Instant::now() < self.due || !self.plan(shared) {
                return Ok(false);
            }
            self.due = Instant::now() + PAUSE;
            self.commits = 0;
        }
        let Some(task) = self.tasks.pop_front() else { return Ok(false) };
        let work = Work { shared, connection, turn };
        let next = match task {
            Task::Retention(task) => retention::step(&work, &task)?.map(Task::Retention),
            Task::Compaction(task) => {
                compaction::step(&work, task, &mut self.compacted)?.map(Task::Compaction)
            }
        };
        if let Some(next) = next {
            self.tasks.push_front(next);
        }
        Ok(!self.tasks.is_empty())
    }

    /// Plans a run. Whether any topic needs one.
    fn plan(&mut self, shared: &Shared) -> bool {
        let now = shared.options.environment.now();
        for topic in shared.topics() {
            let spec = &topic.info.spec;
            for partition in &topic.partitions {
                if let Some(age) = spec.retention {
                    let before = now.saturating_sub(age).as_micros();
                    self.tasks.push_back(Task::Retention(retention::Task::Age { id: partition.id, before }));
                }
                if let Some(limit) = spec.retention_bytes {
                    self.tasks.push_back(Task::Retention(retention::Task::measure(partition.id, limit)));
                }
                if spec.compacted {
                    let from = self.compacted.get(&partition.id).map_or(0, |done| done.below);
                    self.tasks.push_back(Task::Compaction(compaction::Task::map(
                        partition.id,
                        from,
                        spec,
                        now,
                    )));
                }
            }
        }
        !self.tasks.is_empty()
    }
}

/// What a step works with.
pub(crate) struct Work<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) connection: &'a Connection,
    turn: &'a Turn,
}

impl Work<'_> {
    /// Runs `write` as one transaction, in turn with other processes.
    pub(crate) fn write(&self, write: impl FnOnce() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let _turned = self
            .turn
            .take(self.shared)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        write()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// The first offset and the one after the last of a partition.
    pub(crate) fn range(&self, id: i64) -> rusqlite::Result<(Offset, Offset)> {
        crate::reading::range(self.connection, id)
    }
}
