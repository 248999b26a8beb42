//! Failures on command, for tests.

use std::{ops::Range, sync::Arc};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId},
};

use crate::{
    MemoryLog,
    plan::{Chances, Counts, Verdict},
    state::Shared,
};

/// Makes a [`MemoryLog`] fail on command: single calls, whole topics, and whole programs
/// ([`MemoryLog::process`]). Nothing here waits; what takes time takes tokio's, which a test can pause.
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
        self.shared.receipts_held.change(|_| true);
    }

    /// Gives the receipts that were held, in order, and those that follow.
    pub fn release_receipts(&self) {
        self.shared.receipts_held.change(|_| false);
    }

    /// The next `records` records of producers fail and are not stored; later ones of their keys are held, and are
    /// not counted.
    pub fn fail_next_appends(&self, records: usize, kind: LogErrorKind) {
        self.shared.lock().plan.appends = Some((records, Verdict::Fail(kind)));
    }

    /// The next `calls` of a consumer's `settle` fail, every settlement in them, and nothing is stored.
    pub fn fail_next_settles(&self, calls: usize, kind: LogErrorKind) {
        self.shared.lock().plan.settles = Some((calls, Verdict::Fail(kind)));
    }

    /// The next `calls` of a consumer's `confirm` and `assign` fail.
    pub fn fail_next_questions(&self, calls: usize, kind: LogErrorKind) {
        self.shared.lock().plan.questions = Some((calls, Verdict::Fail(kind)));
    }

    /// The next `commits` of transactional producers fail and write nothing.
    pub fn fail_next_transactions(&self, commits: usize, kind: LogErrorKind) {
        self.shared.lock().plan.transactions = Some((commits, Verdict::Fail(kind)));
    }

    /// The next `records` records of producers are stored, and their outcome is `UnknownOutcome`.
    pub fn lose_next_append_answers(&self, records: usize) {
        self.shared.lock().plan.appends = Some((records, Verdict::AnswerLost));
    }

    /// The next `calls` of a consumer's `settle` store what they should, and say `UnknownOutcome`.
    pub fn lose_next_settle_answers(&self, calls: usize) {
        self.shared.lock().plan.settles = Some((calls, Verdict::AnswerLost));
    }

    /// The next `commits` of transactional producers write what they should, and say `UnknownOutcome`.
    pub fn lose_next_transaction_answers(&self, commits: usize) {
        self.shared.lock().plan.transactions = Some((commits, Verdict::AnswerLost));
    }

    /// From now on calls fail by chance, the same ones for the same seed and the same calls; the default of
    /// [`Chances`] ends it.
    pub fn by_chance(&self, seed: u64, chances: Chances) {
        self.shared.lock().plan.by_chance(seed, chances);
    }

    /// What has failed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().plan.counts
    }

    /// Topics whose names end in `ending` take nothing until [`Faults::heal_topics`]: neither records nor transactions
    /// with a record for them.
    pub fn fail_topics(&self, ending: &str, kind: LogErrorKind) {
        self.shared.lock().plan.fail_topics(ending, kind);
    }

    /// Topics whose names end in `ending` are said not to exist until [`Faults::heal_topics`], as by a broker that was just
    /// started and has not heard of them yet.
    pub fn forget_topics(&self, ending: &str) {
        self.shared.lock().plan.forget_topics(ending);
    }

    /// Ends every outage of topics.
    pub fn heal_topics(&self) {
        self.shared.lock().plan.heal_topics();
    }

    /// What is or will be at these offsets of a partition can never be read: readers find `Unreadable`.
    ///
    /// # Errors
    /// `TopicMissing`, or `Configuration`: there is no such partition.
    pub fn damage(&self, partition: &PartitionId, offsets: Range<Offset>) -> Result<(), LogError> {
        self.shared.lock().topics.partition_mut(partition).map(|found| found.damage(offsets))
    }

    /// Kills a program: each of its handles is dead, its members have left their groups, and nobody hears what became
    /// of what it had under way. It starts again as another [`MemoryLog::process`].
    pub fn crash(&self, process: &MemoryLog) {
        process.process.kill();
        let mut state = self.shared.lock();
        let (groups, topics) = state.groups_mut();
        for group in groups.values_mut() {
            group.crash(process.process.number, topics);
        }
    }

    /// Stops a program as SIGSTOP does: what it asks of the log waits, and it hears nothing, until
    /// [`Faults::resume`]. Its session goes on until [`Faults::expire`].
    pub fn pause(&self, process: &MemoryLog) {
        process.process.pause();
    }

    /// Ends [`Faults::pause`] and [`Faults::silence_consumers`].
    pub fn resume(&self, process: &MemoryLog) {
        process.process.resume();
    }

    /// Waits while a program is paused, as its calls of the log do: for what else belongs to it.
    ///
    /// # Errors
    /// `Closed`: it was killed.
    pub async fn turn(&self, process: &MemoryLog) -> Result<(), LogError> {
        process.process.turn().await
    }

    /// Whether a program is paused now.
    #[must_use]
    pub fn is_paused(&self, process: &MemoryLog) -> bool {
        process.process.is_paused()
    }

    /// Whether a program was killed.
    #[must_use]
    pub fn is_killed(&self, process: &MemoryLog) -> bool {
        process.process.is_killed()
    }

    /// The sessions of a program's members run out: others get what they had. When it asks next it hears that all is
    /// lost; then it joins again by itself.
    pub fn expire(&self, process: &MemoryLog) {
        let mut state = self.shared.lock();
        let (groups, topics) = state.groups_mut();
        for group in groups.values_mut() {
            group.expire(process.process.number, topics);
        }
    }

    /// The consumers that a program has now are dead: others get what they had, and every call of theirs fails. One
    /// that it opens later works.
    pub fn fail_consumers(&self, process: &MemoryLog, kind: LogErrorKind) {
        let mut state = self.shared.lock();
        let (groups, topics) = state.groups_mut();
        for group in groups.values_mut() {
            group.fail(process.process.number, kind, topics);
        }
    }

    /// A program's consumers hang: they say nothing and answer nothing until [`Faults::resume`].
    pub fn silence_consumers(&self, process: &MemoryLog) {
        process.process.silence();
    }

    /// A program's consumers hear no signal, and all else goes on, until [`Faults::release_signals`]: the word of what they
    /// have lost is late.
    pub fn hold_signals(&self, process: &MemoryLog) {
        process.process.deafen(true);
    }

    /// Ends [`Faults::hold_signals`].
    pub fn release_signals(&self, process: &MemoryLog) {
        process.process.deafen(false);
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
