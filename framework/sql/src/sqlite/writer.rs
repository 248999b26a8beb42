//! The writer's thread: owns the write connection while nobody has a turn, begins and commits.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, params};

use super::{
    gate::{CommitFailure, Gate, Group, Outcome},
    housekeeping::{Housekeeping, STEP},
    session::{Lent, Ours},
};

/// How often an idle writer looks for marks to delete.
const IDLE: Duration = Duration::from_secs(1);
const LOCKED_TOO_LONG: Duration = Duration::from_secs(5);

/// Where processes that share the file stand in line for its write lock. SQLite has no line: it polls, and who has just
/// committed is the first to poll again.
#[derive(Debug)]
pub(super) struct Line(File);

/// How long to stand behind a process that may be stopped, and how often to look.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(1);

impl Line {
    /// Opens `<path>.writer-queue`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".writer-queue");
        File::options().create(true).truncate(false).write(true).open(Path::new(&name)).map(Self)
    }

    /// Comes to the head of the line, or passes by one who does not move. Who is closing does not stand there.
    fn stand(&self, gate: &Gate) -> io::Result<Option<Head<'_>>> {
        let started = Instant::now();
        loop {
            match self.0.try_lock() {
                Ok(()) => return Ok(Some(Head(&self.0))),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started.elapsed() >= PATIENCE || gate.over().is_some() => {
                    return Ok(None);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        }
    }
}

/// The head of the line, until it is dropped.
struct Head<'a>(&'a File);

impl Drop for Head<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "the line for the write lock could not be left");
        }
    }
}

/// Runs until the gate is over and nobody waits. The connection is closed when this returns.
pub(super) fn run(
    gate: &Arc<Gate>,
    mut conn: Connection,
    ours: &Ours,
    line: &Line,
    mut housekeeping: Housekeeping,
) {
    loop {
        match gate.wait_for_work(if housekeeping.pending() { Duration::ZERO } else { IDLE }) {
            Some(true) => {}
            Some(false) => return,
            None => {
                let stepped = housekeeping.step(&conn, STEP);
                note(gate, stepped);
                continue;
            }
        }
        if !begin(gate, &conn, line) {
            continue;
        }
        ours.set(false);
        gate.pass(Box::new(Lent { conn, ours: ours.clone(), group: Group::new() }));
        let lent = gate.wait_for_connection();
        ours.set(true);
        conn = lent.conn;
        let turns = lent.group.turns;
        if commit(gate, &conn, lent.group) {
            // Under a load that never pauses the writer is never idle.
            note(gate, housekeeping.committed(&conn, turns));
        }
    }
}

fn note(gate: &Gate, stepped: rusqlite::Result<()>) {
    let Err(error) = stepped else { return };
    tracing::warn!(database = %gate.path().display(), %error, "old marks were not deleted; trying again later");
    if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
        // As for a commit: what a failed sync left on the disk is not known.
        gate.fail(&format!("deleting old marks: {error}").into());
    }
}

/// Takes the write lock, which another process may hold for a while.
fn begin(gate: &Gate, conn: &Connection, line: &Line) -> bool {
    let started = Instant::now();
    // Left once the lock is ours, or given up: the next may wait for it meanwhile.
    let _head = match line.stand(gate) {
        Ok(head) => head,
        Err(error) => {
            gate.fail(&format!("standing in line for the write lock: {error}").into());
            return false;
        }
    };
    let mut reported = false;
    loop {
        let result = conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        match result {
            Ok(_) => return true,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                if started.elapsed() > LOCKED_TOO_LONG && !reported {
                    reported = true;
                    tracing::warn!(database = %gate.path().display(), "another process has held the write lock for 5 s");
                }
                if gate.over().is_some() {
                    let reason = "closed while another process held the write lock".into();
                    gate.fail(&reason);
                    return false;
                }
            }
            Err(error) => {
                // BEGIN writes nothing, but a connection that cannot begin is of no use to anyone.
                let reason = format!("BEGIN: {error}").into();
                gate.fail(&reason);
                return false;
            }
        }
    }
}

/// Whether the group was committed.
fn commit(gate: &Gate, conn: &Connection, group: Group) -> bool {
    let staged = !group.published.is_empty();
    let outcome = end(conn, &group);
    if outcome.is_ok() {
        tracing::trace!(turns = group.turns, "committed");
    }
    if let Err(failure) = &outcome {
        tracing::warn!(database = %gate.path().display(), turns = group.turns, ?failure, "a group of turns was not committed");
        if !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            let reason = format!("ROLLBACK: {error}").into();
            gate.fail(&reason);
        }
    }
    if let Err(CommitFailure::Unknown(reason)) = &outcome {
        gate.fail(reason);
    }
    gate.settle_alone(group.turns, outcome.is_err());
    for told in group.outcomes {
        // Whoever gave up waiting needs no answer.
        let _ = told.send(outcome.clone());
    }
    if staged && outcome.is_ok() {
        gate.staged.notify_one();
    }
    outcome.is_ok()
}

fn end(conn: &Connection, group: &Group) -> Outcome {
    if let Some(reason) = &group.broken {
        return Err(CommitFailure::NotCommitted(Arc::clone(reason)));
    }
    if conn.is_autocommit() {
        return Err(CommitFailure::NotCommitted("the transaction ended inside a turn".into()));
    }
    let count = || -> rusqlite::Result<()> {
        let mut add = conn.prepare_cached(
            "INSERT INTO aqueduct_published (event_type, count) VALUES (?1, ?2)
             ON CONFLICT (event_type) DO UPDATE SET count = count + excluded.count",
        )?;
        group
            .published
            .iter()
            .try_for_each(|(event_type, count)| add.execute(params![event_type, count]).map(drop))
    };
    count().map_err(|error| CommitFailure::NotCommitted(error.to_string().into()))?;
    match conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) {
        Ok(_) => Ok(()),
        Err(error)
            if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
                && !aqueduct_core::planted("failed-sync-taken-as-rolled-back") =>
        {
            // The frames may be in the write-ahead log, and a recovery may find them.
            Err(CommitFailure::Unknown(format!("COMMIT: {error}").into()))
        }
        Err(error) => {
            let reason = format!("COMMIT: {error}").into();
            let constraint = error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
            Err(if constraint && group.turns == 1 {
                CommitFailure::Refused(reason)
            } else {
                CommitFailure::NotCommitted(reason)
            })
        }
    }
}
