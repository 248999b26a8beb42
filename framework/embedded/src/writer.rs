//! The writer's thread: whatever queued while it committed is its next transaction.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Instant,
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, Outcomes, PartitionId, Position, TopicInfo},
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    apply::{apply_append, apply_group, apply_transaction, refused},
    changes::Changes,
    command::{Append, Command, Transaction},
    error::is_full,
    failure::Failed,
    groups,
    highwater::HighWater,
    holds::Holds,
    maintenance::Maintenance,
    reading::{Job, ReaderThread},
    registry,
    schema::checkpoint,
    shared::{LostRange, Shared, advance, lock},
    turn::Turn,
};

/// Bounds of one transaction: enough to hide the sync, not so much that the first waits for the last.
const GROUP_RECORDS: usize = 4_096;
const GROUP_BYTES: usize = 16 << 20;
/// How much is appended between two checkpoints.
const CHECKPOINT_BYTES: usize = 16 << 20;
/// While appends never pause, maintenance gets one step per this many transactions.
const BUSY_STEP: u32 = 16;

/// What became of a command; told after the commit.
pub(crate) enum Outcome {
    Append(Outcomes),
    Transaction(Result<Vec<Position>, LogError>),
    Settle(Vec<Result<(), LogError>>),
    Topic(Result<TopicInfo, LogError>),
    Producer(Result<i64, LogError>),
    /// Of a group: the member that joined.
    Group(Result<i64, LogError>),
}

impl Outcome {
    fn records(&self) -> usize {
        match self {
            Self::Append(outcomes) => outcomes.len(),
            Self::Transaction(Ok(positions)) => positions.len(),
            _ => 0,
        }
    }
}

/// All that the writer's thread owns.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Connection,
    pub(crate) turn: Arc<Turn>,
    pub(crate) own_high_water: HighWater,
    /// What any process had noted when the log was opened.
    pub(crate) high_water: HashMap<i64, Offset>,
    pub(crate) reader: ReaderThread,
    pub(crate) holds: Holds,
    /// Set after a failed sync: nothing is acknowledged any more.
    pub(crate) poison: Option<LogError>,
    pub(crate) spread: i32,
    pub(crate) unchecked_bytes: usize,
    pub(crate) maintenance: Maintenance,
}

impl Writer {
    /// Runs until the log is closed or every handle is gone.
    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        let mut busy = 0;
        let reply = loop {
            let first = match self.next(commands, &mut busy) {
                Some(command) => command,
                None => break None,
            };
            let mut group = Vec::new();
            let close = gather(first, commands, &mut group);
            if !group.is_empty() {
                self.write(group);
            }
            if close.is_some() {
                break close;
            }
        };
        let leaving = lock(&self.shared.groups).leave_all();
        if !leaving.is_empty() {
            self.write(leaving);
        }
        self.end(commands, reply);
    }

    /// The next command; maintenance runs while there is none.
    fn next(&mut self, commands: &mpsc::Receiver<Command>, busy: &mut u32) -> Option<Command> {
        loop {
            match commands.try_recv() {
                Ok(command) => {
                    *busy += 1;
                    if *busy >= BUSY_STEP {
                        *busy = 0;
                        self.maintain();
                    }
                    return Some(command);
                }
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            *busy = 0;
            if self.maintain() {
                continue;
            }
            match self.maintenance.pause(Instant::now()) {
                None => return commands.recv().ok(),
                Some(pause) => match commands.recv_timeout(pause) {
                    Ok(command) => return Some(command),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                },
            }
        }
    }

    /// Does one step of maintenance. Whether there is more to do now.
    fn maintain(&mut self) -> bool {
        if self.poison.is_some() {
            return false;
        }
        match self.maintenance.step(&self.shared, &self.connection, &self.turn) {
            Ok(more) => more,
            Err(error) => {
                self.roll_back();
                self.note_failure(&error, "maintenance (retention or compaction) failed");
                self.maintenance.give_up();
                false
            }
        }
    }

    fn write(&mut self, mut group: Vec<Command>) {
        if let Some(poison) = self.poison.clone() {
            group.into_iter().for_each(|command| self.fail(command, &poison));
            return;
        }
        match self.commit(&group) {
            Ok(mut outcomes) => {
                if aqueduct_core::planted("embedded-receipts-swapped") {
                    outcomes.reverse();
                }
                let regrouped = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Group(_)));
                for (command, outcome) in group.into_iter().zip(outcomes) {
                    self.tell(command, outcome);
                }
                if regrouped && let Err(error) = groups::catch_up(&self.shared, &self.connection) {
                    // The reader's thread tries again.
                    self.note_failure(&error, "members could not be told of their partitions");
                }
            }
            // What needs no room, such as a settlement, must not fail beside what does.
            Err(Failed { full: true, .. }) if group.len() > 1 => {
                let second = group.split_off(group.len() / 2);
                self.write(group);
                self.write(second);
                return;
            }
            Err(Failed { error, .. }) => {
                tracing::error!(%error, commands = group.len(), "embedded log: a commit failed");
                group.into_iter().for_each(|command| self.fail(command, &error));
            }
        }
        if self.unchecked_bytes >= CHECKPOINT_BYTES && self.poison.is_none() {
            self.unchecked_bytes = 0;
            if let Err(error) = checkpoint(&self.connection, "PASSIVE") {
                self.note_failure(&error, "a checkpoint failed");
            }
        }
    }

    /// Writes a group of commands as one transaction.
    fn commit(&mut self, group: &[Command]) -> Result<Vec<Outcome>, Failed> {
        let turn = Arc::clone(&self.turn);
        let turned = turn.take(&self.shared).map_err(|error| {
            LogError::with_source(
                LogErrorKind::Storage,
                format!("{}: cannot take the write lock", self.shared.place.path.display()),
                error,
            )
        })?;
        let result = self.transact(group);
        let written = match result {
            Ok(written) => written,
            Err(error) => {
                self.roll_back();
                drop(turned);
                let full = is_full(&error);
                let error = self.note_failure(&error, "the commit failed, nothing of it is acknowledged");
                return Err(Failed { error, full });
            }
        };
        drop(turned);
        let Written { outcomes, topics, lost, ends, bytes } = written;
        self.shared.add_lost(lost);
        for topic in topics {
            self.shared.adopt(topic);
        }
        self.unchecked_bytes += bytes;
        self.maintenance.committed();
        // How well the sync is shared: per transaction, and nothing while nobody listens.
        tracing::trace!(records = outcomes.iter().map(Outcome::records).sum::<usize>(), "committed");
        // Before any receipt: what is acknowledged must be known to have existed.
        let noted = match aqueduct_core::planted("embedded-no-high-water") {
            true => Ok(()),
            false => self.own_high_water.write(ends.iter().map(|(id, _, next)| (*id, *next))),
        };
        for (_, partition, next) in ends {
            if let Some(topic) = self.shared.topic(&partition.topic)
                && let Some(partition) = topic.partition(partition.partition)
            {
                advance(&partition.end, next);
            }
        }
        match noted {
            Ok(()) => Ok(outcomes),
            Err(error) => Err(self.unnoted(&error).into()),
        }
    }

    fn transact(&mut self, group: &[Command]) -> rusqlite::Result<Written> {
        let late = aqueduct_core::planted("embedded-receipt-before-commit");
        if late && !self.connection.is_autocommit() {
            self.connection.execute_batch("COMMIT")?;
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut changes = Changes::new(&self.connection, &self.shared, &self.high_water);
        let mut outcomes = Vec::with_capacity(group.len());
        for command in group {
            let outcome = match command {
                Command::Append(append) => {
                    Outcome::Append(apply_append(&mut changes, &mut self.holds, append, &mut self.spread)?)
                }
                Command::Transaction(transaction) => Outcome::Transaction(refused(apply_transaction(
                    &mut changes,
                    transaction,
                    &mut self.spread,
                ))?),
                Command::Settle { group, member, settlements, .. } => {
                    let mut results = Vec::with_capacity(settlements.len());
                    for settlement in settlements {
                        results.push(refused(
                            changes
                                .check_settlement(group, *member, settlement)
                                .and_then(|id| Ok(changes.settle(group, id, settlement)?)),
                        )?);
                    }
                    Outcome::Settle(results)
                }
                Command::EnsureTopic { spec, .. } => Outcome::Topic(refused(changes.ensure_topic(spec))?),
                Command::OpenProducer { id, .. } => Outcome::Producer(Ok(changes.open_producer(id)?)),
                Command::Join { .. }
                | Command::Leave { .. }
                | Command::Answer { .. }
                | Command::Tend { .. } => Outcome::Group(refused(apply_group(&mut changes, command))?),
                // `gather` keeps it out.
                Command::Close { .. } => continue,
            };
            outcomes.push(outcome);
        }
        changes.finish()?;
        if !late {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(Written {
            outcomes,
            topics: changes.topics().map(Arc::clone).collect(),
            lost: std::mem::take(&mut changes.lost),
            ends: changes
                .next
                .iter()
                .map(|(id, next)| {
                    let partition = PartitionId { topic: next.topic.name().clone(), partition: next.number };
                    (*id, partition, next.offset)
                })
                .collect(),
            bytes: changes.bytes,
        })
    }

    fn roll_back(&mut self) {
        // Some failures end the transaction by themselves.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            self.note_failure(&error, "a roll-back failed");
        }
    }

    /// Finishes, then gives the files back.
    fn end(self, commands: &mpsc::Receiver<Command>, reply: Option<oneshot::Sender<Result<(), LogError>>>) {
        let Self { shared, connection, reader, poison, own_high_water, turn, .. } = self;
        shared.close();
        // What slipped in behind the end; dropping it tells its callers.
        while let Ok(command) = commands.try_recv() {
            drop(command);
        }
        drop(reader.jobs.send(Job::Stop));
        if reader.thread.join().is_err() {
            tracing::error!("embedded log: the reader's thread panicked");
        }
        let result = match poison {
            Some(poison) => Err(poison),
            None => checkpoint(&connection, "TRUNCATE")
                .map_err(|error| shared.error("the last checkpoint failed", error)),
        };
        let result = result
            .and(connection.close().map_err(|(_, error)| shared.error("cannot close the database", error)));
        drop((own_high_water, turn));
        registry::forget(&shared);
        match (reply, result) {
            (Some(reply), result) => drop(reply.send(result)),
            (None, Err(error)) => tracing::error!(%error, "embedded log: closing failed"),
            (None, Ok(())) => {}
        }
    }
}

/// What a committed transaction leaves to do.
struct Written {
    outcomes: Vec<Outcome>,
    topics: Vec<Arc<crate::shared::Topic>>,
    lost: Vec<(i64, LostRange)>,
    ends: Vec<(i64, PartitionId, Offset)>,
    bytes: usize,
}

/// Takes what has queued, up to the bounds, or up to a command to close.
fn gather(
    first: Command,
    commands: &mpsc::Receiver<Command>,
    group: &mut Vec<Command>,
) -> Option<oneshot::Sender<Result<(), LogError>>> {
    let (mut records, mut bytes) = (0, 0);
    let mut next = Some(first);
    while let Some(command) = next {
        match &command {
            Command::Append(Append { records: batch, .. })
            | Command::Transaction(Transaction { records: batch, .. }) => {
                records += batch.len();
                bytes += batch.iter().map(aqueduct_core::NewRecord::size).sum::<usize>();
            }
            _ => {}
        }
        if let Command::Close { reply } = command {
            return Some(reply);
        }
        group.push(command);
        if records >= GROUP_RECORDS || bytes >= GROUP_BYTES || aqueduct_core::planted("embedded-group-of-one")
        {
            return None;
        }
        next = commands.try_recv().ok();
    }
    None
}

/// Draws the place of an append in the order.
pub(crate) fn draw(shared: &Shared) -> u64 {
    shared.sequence.fetch_add(1, Ordering::AcqRel)
}
