//! Failures on command, for tests.

use std::{fmt::Display, sync::Arc};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId},
};

use crate::state::Shared;

/// How many more times something fails, and how.
pub(crate) type Failing = Option<(usize, LogErrorKind)>;

/// What shall fail next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) appends: Failing,
    pub(crate) settles: Failing,
    pub(crate) transactions: Failing,
}

/// Uses one failure up, if one is due.
pub(crate) fn take(failing: &mut Failing) -> Option<LogErrorKind> {
    let (left, kind) = failing.as_mut()?;
    *left = left.checked_sub(1)?;
    Some(*kind)
}

pub(crate) fn error(kind: LogErrorKind, place: &impl Display) -> LogError {
    LogError::new(kind, format!("{place}: failed on command"))
}

/// Makes a [`MemoryLog`](crate::MemoryLog) fail on command. What fails on command writes nothing.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Faults {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Stores records as ever, but gives no receipt of a producer until [`Faults::release_receipts`].
    pub fn hold_receipts(&self) {
        self.shared.receipts_held.send_replace(true);
    }

    /// Gives the receipts that were held, in order, and those that follow.
    pub fn release_receipts(&self) {
        self.shared.receipts_held.send_replace(false);
    }

    /// The next `records` records of producers fail; later ones of their keys are held, and are not counted.
    pub fn fail_next_appends(&self, records: usize, kind: LogErrorKind) {
        self.shared.lock().plan.appends = Some((records, kind));
    }

    /// The next `calls` of a consumer's `settle` fail, every settlement in them.
    pub fn fail_next_settles(&self, calls: usize, kind: LogErrorKind) {
        self.shared.lock().plan.settles = Some((calls, kind));
    }

    /// The next `commits` of transactional producers fail.
    pub fn fail_next_transactions(&self, commits: usize, kind: LogErrorKind) {
        self.shared.lock().plan.transactions = Some((commits, kind));
    }

    /// Every member of `group` loses its partitions without being asked, as after a session that ran out; then they
    /// are assigned anew, under new generations.
    ///
    /// # Errors
    /// `Configuration` where the group has never had a member, `Closed` after the log was closed.
    pub fn lose(&self, group: &str) -> Result<(), LogError> {
        let mut state = self.shared.open()?;
        let (group, topics) = state.group_mut(group)?;
        group.lose(topics)
    }

    /// Removes the records of `partition` below `offset`, as retention does.
    ///
    /// # Errors
    /// `TopicMissing` or `Configuration` where there is no such partition, `Closed` after the log was closed.
    pub fn delete_before(&self, partition: &PartitionId, offset: Offset) -> Result<(), LogError> {
        self.shared.open()?.topics.partition_mut(partition)?.delete_before(offset);
        Ok(())
    }
}
