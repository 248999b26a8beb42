//! The relay's lease: one row with a term. Each takeover raises the term, and everything that a relay writes to the
//! database checks it.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use aqueduct_core::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// A relay that has not renewed for this long may be deposed.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// Rows deleted in one turn.
const CLEANED: i64 = 2_000;

pub(super) fn until(now: Timestamp) -> i64 {
    now.as_micros().saturating_add(i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX))
}

/// What a takeover found.
#[derive(Debug, Clone)]
pub(super) struct Leased {
    pub(super) term: i64,
    /// The last row that the log is known to hold.
    pub(super) cursor: i64,
    pub(super) event: Option<Vec<u8>>,
    pub(super) incarnation: Uuid,
}

pub(super) enum Acquired {
    Leased(Leased),
    /// Somebody else leads.
    Held,
    /// The outbox belongs to another name.
    Named(String),
}

/// An operating-system lock beside the file, for as long as a relay leads. Getting it proves that the process of the
/// relay before is dead, so nobody waits for its lease to run out.
pub(super) fn lock(database: &Path) -> std::io::Result<Option<File>> {
    let mut path = database.as_os_str().to_owned();
    path.push(".relay.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes the lease where it is free: never held, run out, or its holder is `known_dead`.
pub(super) fn acquire(
    conn: &Connection,
    outbox: &str,
    owner: Uuid,
    known_dead: bool,
    now: Timestamp,
) -> rusqlite::Result<Acquired> {
    let other: Option<String> = conn
        .prepare_cached("SELECT outbox FROM aqueduct_relay WHERE outbox <> ?1")?
        .query_row([outbox], |row| row.get(0))
        .optional()?;
    if let Some(other) = other {
        return Ok(Acquired::Named(other));
    }
    let takes = known_dead || aqueduct_core::planted("held-lease-taken");
    let leased = conn
        .prepare_cached(
            "INSERT INTO aqueduct_relay (outbox, owner, term, until, cursor, incarnation) VALUES (?1, ?2, 1, ?3, 0, ?2)
             ON CONFLICT (outbox) DO UPDATE SET owner = excluded.owner, term = term + 1, until = excluded.until
             WHERE until < ?4 OR ?5
             RETURNING term, cursor, cursor_event, incarnation",
        )?
        .query_row(params![outbox, owner.as_bytes(), until(now), now.as_micros(), takes], |row| {
            Ok(Leased {
                term: row.get(0)?,
                cursor: row.get(1)?,
                event: row.get(2)?,
                incarnation: Uuid::from_bytes(row.get(3)?),
            })
        })
        .optional()?;
    Ok(leased.map_or(Acquired::Held, Acquired::Leased))
}

/// Extends the lease. `false`: deposed.
pub(super) fn renew(conn: &Connection, outbox: &str, term: i64, until: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("UPDATE aqueduct_relay SET until = ?3 WHERE outbox = ?1 AND term = ?2")?
        .execute(params![outbox, term, until])
        .map(|changed| changed == 1)
}

/// Moves the table's cursor, and extends the lease. `false`: deposed.
pub(super) fn advance(
    conn: &Connection,
    outbox: &str,
    term: i64,
    (cursor, event): (i64, Option<&[u8]>),
    until: i64,
) -> rusqlite::Result<bool> {
    let mut term = term;
    if aqueduct_core::planted("deposed-relay-goes-on") {
        term = conn.query_row("SELECT term FROM aqueduct_relay", [], |row| row.get(0))?;
    }
    conn.prepare_cached(
        "UPDATE aqueduct_relay SET cursor = ?3, cursor_event = ?4, until = ?5 WHERE outbox = ?1 AND term = ?2",
    )?
    .execute(params![outbox, term, cursor, event, until])
    .map(|changed| changed == 1)
}

/// Begins a new history under a new incarnation, and writes down which rows may be in the log twice, or not at all.
/// `false`: deposed.
pub(super) fn fork(
    conn: &Connection,
    outbox: &str,
    leased: &Leased,
    (after, upto): (i64, i64),
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let changed = conn
        .prepare_cached(
            "UPDATE aqueduct_relay SET incarnation = ?3, cursor = ?4, cursor_event = ?5
             WHERE outbox = ?1 AND term = ?2",
        )?
        .execute(params![outbox, leased.term, leased.incarnation.as_bytes(), leased.cursor, leased.event])?;
    conn.prepare_cached(
        "INSERT INTO aqueduct_relay_fork (at, outbox, after, upto, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![now.as_micros(), outbox, after, upto, reason])?;
    Ok(changed == 1)
}

/// Deletes published rows from the low end, save the cursor's own. Whether there are more.
pub(super) fn clean(conn: &Connection, outbox: &str, term: i64) -> rusqlite::Result<bool> {
    let deleted = conn
        .prepare_cached(
            "DELETE FROM aqueduct_outbox WHERE id < min(
                (SELECT cursor FROM aqueduct_relay WHERE outbox = ?1 AND term = ?2),
                (SELECT min(id) FROM aqueduct_outbox) + ?3)",
        )?
        .execute(params![outbox, term, CLEANED])?;
    Ok(i64::try_from(deleted).is_ok_and(|deleted| deleted >= CLEANED))
}

/// Whether there is a published row to delete.
pub(super) fn cleanable(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT coalesce((SELECT min(id) FROM aqueduct_outbox) < (SELECT max(cursor) FROM aqueduct_relay), 0)",
    )?
    .query_row([], |row| row.get(0))
}
