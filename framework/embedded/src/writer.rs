//! The writer's thread: whatever queued while it committed is its next transaction.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Instant,
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Assignment, Offset, Outcomes, PartitionId, Position, Signal, TopicInfo},
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    apply::{apply_append, apply_deliveries, apply_transaction, refused},
    changes::Changes,
    command::{Append, Command, Transaction},
    error::{closed, is_io_failure},
    groups::Give,
    highwater::HighWater,
    holds::Holds,
    maintenance::Maintenance,
    reading::{Job, ReaderThread},
    registry,
    schema::checkpoint,
    shared::{LostRange, Shared, advance},
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
enum Outcome {
    Append(Outcomes),
    Transaction(Result<Vec<Position>, LogError>),
    Settle(Vec<Result<(), LogError>>),
    Topic(Result<TopicInfo, LogError>),
    Producer(Result<i64, LogError>),
    Deliver(Vec<Vec<Assignment>>),
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

    fn write(&mut self, group: Vec<Command>) {
        if let Some(poison) = self.poison.clone() {
            group.into_iter().for_each(|command| self.fail(command, &poison));
            return;
        }
        match self.commit(&group) {
            Ok(outcomes) => {
                for (command, outcome) in group.into_iter().zip(outcomes) {
                    self.tell(command, outcome);
                }
            }
            Err(error) => {
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
    fn commit(&mut self, group: &[Command]) -> Result<Vec<Outcome>, LogError> {
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
                return Err(self.note_failure(&error, "the commit failed, nothing of it is acknowledged"));
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
        let mut noted = Ok(());
        for (id, partition, next) in ends {
            // Before any receipt: what is acknowledged must be known to have existed.
            noted = noted.and(self.own_high_water.write(id, next));
            if let Some(topic) = self.shared.topic(&partition.topic)
                && let Some(partition) = topic.partition(partition.partition)
            {
                advance(&partition.end, next);
            }
        }
        match noted {
            Ok(()) => Ok(outcomes),
            Err(error) => Err(self.unnoted(&error)),
        }
    }

    /// The commit went well, its note did not: without it a log that goes back would not be noticed, so nobody is
    /// told that the records are stored, nor that they are not.
    fn unnoted(&mut self, error: &std::io::Error) -> LogError {
        let path = self.shared.place.path.display();
        let failed = format!("{path}: the high-water file could not be written");
        let poison = LogError::with_source(
            LogErrorKind::Storage,
            format!("{failed}; nothing is acknowledged any more, open the log again"),
            error.to_string(),
        );
        let unknown = LogError::with_source(
            LogErrorKind::UnknownOutcome,
            format!("{failed}; what was just written is in the log, but not acknowledged"),
            error.to_string(),
        );
        tracing::error!(error = %poison, "embedded log: this instance acknowledges nothing any more");
        self.poison = Some(poison);
        unknown
    }

    fn transact(&mut self, group: &[Command]) -> rusqlite::Result<Written> {
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
                Command::Settle { group, settlements, .. } => {
                    let mut results = Vec::with_capacity(settlements.len());
                    for settlement in settlements {
                        results.push(refused(
                            changes
                                .check_settlement(group, settlement)
                                .and_then(|id| Ok(changes.settle(group, id, settlement)?)),
                        )?);
                    }
                    Outcome::Settle(results)
                }
                Command::EnsureTopic { spec, .. } => Outcome::Topic(refused(changes.ensure_topic(spec))?),
                Command::OpenProducer { id, .. } => Outcome::Producer(Ok(changes.open_producer(id)?)),
                Command::Deliver { group, deliveries } => {
                    Outcome::Deliver(apply_deliveries(&mut changes, group, deliveries)?)
                }
                // `gather` keeps it out.
                Command::Close { .. } => continue,
            };
            outcomes.push(outcome);
        }
        changes.finish()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
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

    /// Turns a failure into an error of the log; after an I/O failure nothing is acknowledged any more.
    fn note_failure(&mut self, error: &rusqlite::Error, tried: &str) -> LogError {
        let path = &self.shared.place.path;
        let text = error.to_string();
        if is_io_failure(error) {
            let poison = LogError::with_source(
                LogErrorKind::Storage,
                format!(
                    "{}: a write to the disk failed; what is on it is not known, open the log again",
                    path.display()
                ),
                text.clone(),
            );
            tracing::error!(error = %poison, "embedded log: this instance acknowledges nothing any more");
            self.poison = Some(poison);
        }
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                LogErrorKind::Corrupt
            }
            _ => LogErrorKind::Storage,
        };
        LogError::with_source(kind, format!("{}: {tried}", path.display()), text)
    }

    fn tell(&mut self, command: Command, outcome: Outcome) {
        // A caller that went away does not want its answer; what was stored stays stored.
        match (command, outcome) {
            (Command::Append(append), Outcome::Append(outcomes)) => {
                let failed = append.records.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_err());
                self.holds.tell(failed.map(|(record, _)| record), &self.shared.sequence);
                append.receipt.complete(outcomes);
            }
            (Command::Transaction(transaction), Outcome::Transaction(result)) => {
                drop(transaction.reply.send(result));
            }
            (Command::Settle { reply, .. }, Outcome::Settle(results)) => drop(reply.send(results)),
            (Command::EnsureTopic { reply, .. }, Outcome::Topic(result)) => drop(reply.send(result)),
            (Command::OpenProducer { reply, .. }, Outcome::Producer(result)) => drop(reply.send(result)),
            (Command::Deliver { deliveries, .. }, Outcome::Deliver(assignments)) => {
                for (delivery, assignments) in deliveries.into_iter().zip(assignments) {
                    delivery.member.tell(Ok(match delivery.give {
                        Give::Assign(_) => Signal::Assigned(assignments),
                        Give::Revoke(partitions) => Signal::Revoking(partitions),
                    }));
                }
            }
            // Commands and outcomes are made in pairs.
            (command, _) => self.fail(command, &closed()),
        }
    }

    fn fail(&mut self, command: Command, error: &LogError) {
        match command {
            Command::Append(append) => {
                self.holds.tell(append.records.iter(), &self.shared.sequence);
                append.receipt.fail(error);
            }
            Command::Transaction(transaction) => {
                let error = if self.poison.is_some() && error.kind() == LogErrorKind::Storage {
                    LogError::with_source(
                        LogErrorKind::UnknownOutcome,
                        format!(
                            "whether the transaction of {:?} is stored is not known",
                            transaction.producer
                        ),
                        error.clone(),
                    )
                } else {
                    error.clone()
                };
                drop(transaction.reply.send(Err(error)));
            }
            Command::Settle { settlements, reply, .. } => {
                drop(reply.send(vec![Err(error.clone()); settlements.len()]));
            }
            Command::EnsureTopic { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::OpenProducer { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Deliver { deliveries, .. } => {
                for delivery in deliveries {
                    delivery.member.tell(Err(error.clone()));
                }
            }
            Command::Close { reply } => drop(reply.send(Err(error.clone()))),
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
        if records >= GROUP_RECORDS || bytes >= GROUP_BYTES {
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
