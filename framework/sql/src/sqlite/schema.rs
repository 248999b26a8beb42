//! Opening a file: settings that durability rests on, whose file it is, and our tables. `docs/formats.md` describes
//! them; a change raises [`FORMAT`].

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::error::DatabaseError;

/// `AqSv`.
const APPLICATION_ID: i32 = 0x4171_5376;
const FORMAT: i64 = 1;
const OLDEST_SQLITE: (i32, &str) = (3_051_003, "3.51.3");
/// A reader waits this long for another process.
const BUSY: Duration = Duration::from_secs(1);
/// Opening waits this long: another process may be stopped in a transaction, or its handler may be slow.
const BUSY_AT_OPEN: Duration = Duration::from_secs(30);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS aqueduct_format (only INTEGER PRIMARY KEY CHECK (only = 1), format INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS aqueduct_position (
    id INTEGER PRIMARY KEY, subscription TEXT NOT NULL, topic_id BLOB NOT NULL, partition INTEGER NOT NULL,
    generation INTEGER NOT NULL, settled INTEGER, scope INTEGER NOT NULL REFERENCES aqueduct_scope (id),
    UNIQUE (subscription, topic_id, partition));
CREATE TABLE IF NOT EXISTS aqueduct_scope (id INTEGER PRIMARY KEY, subscription TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS aqueduct_mark (
    position INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (position, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aqueduct_event_mark (
    scope INTEGER NOT NULL, event BLOB NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (scope, event)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aqueduct_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, event_id BLOB NOT NULL, event_type TEXT NOT NULL, topic TEXT NOT NULL,
    partition INTEGER, key BLOB, headers BLOB NOT NULL, payload BLOB, timestamp INTEGER NOT NULL,
    at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS aqueduct_published (event_type TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aqueduct_relay (
    outbox TEXT PRIMARY KEY, owner BLOB NOT NULL, term INTEGER NOT NULL, until INTEGER NOT NULL,
    cursor INTEGER NOT NULL, cursor_event BLOB, incarnation BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS aqueduct_relay_fork (
    at INTEGER NOT NULL, outbox TEXT NOT NULL, after INTEGER NOT NULL, upto INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS aqueduct_stream (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, state_version INTEGER NOT NULL,
    snapshot BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS aqueduct_stream_entry (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, version INTEGER NOT NULL, event_type TEXT NOT NULL,
    payload BLOB NOT NULL, UNIQUE (stream, version));
CREATE VIEW IF NOT EXISTS aqueduct_stream_event AS
    SELECT s.name AS stream, e.version, e.event_type, e.payload, e.id AS place
    FROM aqueduct_stream_entry e JOIN aqueduct_stream s ON s.id = e.stream;
";

/// Opens the write connection: settings, ownership, our tables, the service's tables.
pub(super) fn open(path: &Path, schema: &str) -> Result<Connection, DatabaseError> {
    if rusqlite::version_number() < OLDEST_SQLITE.0 {
        return Err(DatabaseError::OldSqlite { found: rusqlite::version(), needed: OLDEST_SQLITE.1 });
    }
    let failed =
        |source: rusqlite::Error| DatabaseError::Open { path: path.to_path_buf(), source: source.into() };
    let conn = Connection::open(path).map_err(failed)?;
    conn.busy_timeout(BUSY_AT_OPEN).map_err(failed)?;
    // Looked at before anything is written: not even the journal mode of another program's file may change.
    check_owner(&conn, path)?;
    switch_to_wal(&conn).map_err(failed)?;
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 16000; PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(failed)?;
    read_back(&conn, path, "journal_mode", "wal")?;
    read_back(&conn, path, "synchronous", "2")?;
    read_back(&conn, path, "foreign_keys", "1")?;
    conn.set_prepared_statement_cache_capacity(256);
    // Where all is there already nothing is written, so that nothing is waited for.
    if !is_ours(&conn).map_err(failed)? {
        tables(&conn).map_err(failed)?;
    }
    conn.execute_batch(schema)
        .map_err(|source| DatabaseError::Schema { path: path.to_path_buf(), source: source.into() })?;
    if !conn.is_autocommit() {
        let source = "it leaves a transaction open".into();
        return Err(DatabaseError::Schema { path: path.to_path_buf(), source });
    }
    conn.busy_handler(Some(wait_for_writer)).map_err(failed)?;
    Ok(conn)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI,
    )?;
    conn.busy_timeout(BUSY)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

fn check_owner(conn: &Connection, path: &Path) -> Result<(), DatabaseError> {
    let failed =
        |source: rusqlite::Error| DatabaseError::Open { path: path.to_path_buf(), source: source.into() };
    let found: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    // 0 is a new file, or a service's own database that is adopted.
    if found != 0 && found != APPLICATION_ID {
        return Err(DatabaseError::NotOurs { path: path.to_path_buf(), found, ours: APPLICATION_ID });
    }
    let there: bool = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'aqueduct_format'", [], |row| row.get(0))
        .map_err(failed)?;
    if there {
        let found: i64 = conn
            .query_row("SELECT coalesce(max(format), 0) FROM aqueduct_format", [], |row| row.get(0))
            .map_err(failed)?;
        if found > FORMAT {
            return Err(DatabaseError::NewerFormat { path: path.to_path_buf(), found, known: FORMAT });
        }
    }
    Ok(())
}

/// To the end of its rows: a sync that fails after the row is told by the step behind it.
fn switch_to_wal(conn: &Connection) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Waits a little for another process, up to 100 ms: the writer's thread looks around in between. One process at a time
/// waits like this, the head of the line.
fn wait_for_writer(tries: i32) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    tries < 100
}

/// Whether the file has our mark, which is set in the transaction that makes our tables.
fn is_ours(conn: &Connection) -> rusqlite::Result<bool> {
    let found: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    Ok(found == APPLICATION_ID)
}

fn read_back(
    conn: &Connection,
    path: &Path,
    pragma: &'static str,
    needed: &'static str,
) -> Result<(), DatabaseError> {
    let found: String = conn
        .query_row(&format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"), [], |row| row.get(0))
        .map_err(|source| DatabaseError::Open { path: path.to_path_buf(), source: source.into() })?;
    if found == needed {
        return Ok(());
    }
    Err(DatabaseError::Setting { path: path.to_path_buf(), pragma, found, needed })
}

fn tables(conn: &Connection) -> rusqlite::Result<()> {
    let create = || {
        conn.execute_batch(TABLES)?;
        conn.execute("INSERT INTO aqueduct_format VALUES (1, ?1) ON CONFLICT DO NOTHING", [FORMAT])?;
        conn.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; COMMIT"))
    };
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let created = create();
    if created.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    created
}
