//! The database: opening it, its format, and its tables. The layout is described in docs/formats.md.

use std::{collections::HashMap, path::Path, time::Duration};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Offset, PartitionId, TopicInfo, TopicSpec},
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use crate::{error::sqlite, file::unreachable, highwater};

/// "AQLG": what makes the file ours.
const APPLICATION_ID: i32 = 0x4151_4c47;
/// The newest format that this program reads and writes.
const FORMAT: i32 = 2;
/// Older versions can corrupt the write-ahead log when two connections checkpoint at once.
const MIN_SQLITE: i32 = 3_051_003;
/// How long to wait for a foreign tool that holds SQLite's own lock; our processes queue on lock files.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE topic(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, uuid BLOB NOT NULL,
  partitions INTEGER NOT NULL, retention_ms INTEGER, retention_bytes INTEGER, compacted INTEGER NOT NULL);
CREATE TABLE partition(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
  next_offset INTEGER NOT NULL, start_offset INTEGER NOT NULL, UNIQUE(topic_id, number));
CREATE TABLE record(id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB NOT NULL,
  value BLOB, crc INTEGER NOT NULL);
CREATE TABLE group_partition(group_name TEXT NOT NULL, partition_id INTEGER NOT NULL,
  generation INTEGER NOT NULL, settled INTEGER, metadata TEXT NOT NULL, owner INTEGER, asked INTEGER,
  PRIMARY KEY(group_name, partition_id)) WITHOUT ROWID;
CREATE TABLE producer(id TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lost(partition_id INTEGER NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL);
";

/// What format 2 added: groups that processes share. The id of a member is never given again.
const MEMBERS: &str = "
CREATE TABLE group_member(id INTEGER PRIMARY KEY AUTOINCREMENT, group_name TEXT NOT NULL, topics TEXT NOT NULL,
  file TEXT NOT NULL, session_ms INTEGER NOT NULL);
CREATE TABLE group_version(group_name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
";
const FROM_1: &str = "
ALTER TABLE group_partition ADD COLUMN owner INTEGER;
ALTER TABLE group_partition ADD COLUMN asked INTEGER;
";

/// Opens the connection that writes, and checks that the file is ours. Run under the writer lock: it may make the
/// tables.
pub(crate) fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<Connection, LogError> {
    let version = rusqlite::version_number();
    if version < MIN_SQLITE {
        return Err(LogError::new(
            LogErrorKind::Configuration,
            format!("SQLite {} is linked; 3.51.3 or newer is needed", rusqlite::version()),
        ));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = open(path, flags)?;
    check_format(path, &connection)?;
    let failed = |error| sqlite(path, "cannot set the database up", error);
    (|| {
        write_ahead(&connection)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // The writer checkpoints itself: SQLite's automatic one hides a failed sync of the database (P1).
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        limit(&connection, max_bytes)
    })()
    .map_err(failed)?;
    expect(path, &connection, "journal_mode", "wal")?;
    expect(path, &connection, "synchronous", "2")?;
    create(path, &mut connection)?;
    sound(path, &connection)?;
    Ok(connection)
}

/// Checks that the rows that say what topics and partitions there are agree with their indexes: records have a checksum,
/// a topic's name has none, and a flipped bit in it would make the topic another, empty one.
fn sound(path: &Path, connection: &Connection) -> Result<(), LogError> {
    for table in ["topic", "partition"] {
        let said: String = connection
            .query_row(&format!("PRAGMA integrity_check({table})"), [], |row| row.get(0))
            .map_err(|error| sqlite(path, "cannot check its tables", error))?;
        if said != "ok" {
            return Err(LogError::new(
                LogErrorKind::Corrupt,
                format!("{}: table {table} is damaged: {said}; restore a copy", path.display()),
            ));
        }
    }
    Ok(())
}

/// Opens a connection that reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, LogError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // It knows the file alone, not what another connection believes to have changed.
    expect(path, &connection, "journal_mode", "wal")?;
    Ok(connection)
}

/// Turns the write-ahead log on. Read to the end: the change is committed, and fails, after the row that tells of it.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, LogError> {
    let failed = |error| sqlite(path, "cannot open the database", error);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    (|| {
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        connection.pragma_update(None, "mmap_size", 0)
    })()
    .map_err(failed)?;
    Ok(connection)
}

fn check_format(path: &Path, connection: &Connection) -> Result<(), LogError> {
    let failed = |error| sqlite(path, "cannot read the file's type", error);
    let application = pragma(connection, "application_id").map_err(failed)?;
    let format = pragma(connection, "user_version").map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
    let format_error = |message: String| Err(LogError::new(LogErrorKind::Format, message));
    match (application, format) {
        (0, 0) if tables == 0 => Ok(()),
        (APPLICATION_ID, 1..=FORMAT) => Ok(()),
        (APPLICATION_ID, newer) => format_error(format!(
            "{} has format version {newer}, this program knows versions up to {FORMAT}: deploy the newer program",
            path.display()
        )),
        (other, _) => format_error(format!(
            "{} is a database of another program (application_id {other:#x}), not an embedded log",
            path.display()
        )),
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn expect(path: &Path, connection: &Connection, name: &str, expected: &str) -> Result<(), LogError> {
    let value: rusqlite::types::Value = connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|error| sqlite(path, "cannot read a setting back", error))?;
    let value = match value {
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if value == expected {
        return Ok(());
    }
    Err(LogError::new(
        LogErrorKind::Configuration,
        format!("{}: {name} is {value}, {expected} is needed", path.display()),
    ))
}

/// Caps the database's size, not below what it has.
fn limit(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    let Some(max_bytes) = max_bytes else { return Ok(()) };
    let page: u64 = connection
        .pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0))
        .map(|page| u64::from(page.max(1)))?;
    // SQLite's own limit of pages is below this one.
    let pages = i64::from(u32::try_from(max_bytes / page).unwrap_or(u32::MAX - 1));
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

/// Makes the tables, or brings an older file up to this format.
fn create(path: &Path, connection: &mut Connection) -> Result<(), LogError> {
    let failed = |error| sqlite(path, "cannot make the tables", error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let tables = if pragma(&transaction, "application_id").map_err(failed)? != APPLICATION_ID {
        [TABLES, MEMBERS]
    } else if pragma(&transaction, "user_version").map_err(failed)? == FORMAT {
        return Ok(());
    } else {
        // The older program knows no owners: it would give partitions away that are owned.
        if highwater::is_held(path).map_err(|error| unreachable(path, error))? {
            return Err(LogError::new(
                LogErrorKind::Unreachable,
                format!(
                    "{} has an older format, and a process of the older program has it open: end that process first",
                    path.display()
                ),
            ));
        }
        [FROM_1, MEMBERS]
    };
    set_up(transaction, &tables.concat()).map_err(failed)?;
    // Into the database file itself, so that one whose write-ahead log was deleted is still known as ours.
    checkpoint(connection, "TRUNCATE").map_err(failed)
}

fn set_up(transaction: Transaction<'_>, tables: &str) -> rusqlite::Result<()> {
    transaction.execute_batch(tables)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

/// Moves what the write-ahead log holds into the database. A reader may be in the way; the next one goes on.
pub(crate) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

/// A topic as the tables hold it.
#[derive(Debug)]
pub(crate) struct StoredTopic {
    pub(crate) info: TopicInfo,
    /// Row id and next offset of each partition, by number.
    pub(crate) partitions: Vec<(i64, Offset)>,
}

/// Reads a topic.
pub(crate) fn load_topic(connection: &Connection, name: &TopicName) -> rusqlite::Result<Option<StoredTopic>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, uuid, partitions, retention_ms, retention_bytes, compacted FROM topic WHERE name = ?",
    )?;
    let found = statement
        .query_row([name.as_str()], |row| {
            let retention: Option<i64> = row.get(3)?;
            let spec = TopicSpec {
                partitions: Some(row.get(2)?),
                retention: retention.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
                retention_bytes: row.get::<_, Option<i64>>(4)?.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
                compacted: row.get(5)?,
                ..TopicSpec::new(name.clone())
            };
            let uuid: [u8; 16] = row.get(1)?;
            Ok((row.get::<_, i64>(0)?, TopicInfo { id: Uuid::from_bytes(uuid), spec }))
        })
        .optional()?;
    let Some((id, info)) = found else { return Ok(None) };
    let mut statement = connection
        .prepare_cached("SELECT id, next_offset FROM partition WHERE topic_id = ? ORDER BY number")?;
    let partitions =
        statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(Some(StoredTopic { info, partitions }))
}

/// The names of all topics.
pub(crate) fn topic_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare("SELECT name FROM topic ORDER BY id")?.query_map([], |row| row.get(0))?.collect()
}

/// Makes a topic. A partition's row id may have been given before, by a database that went back: then its offsets
/// start above the ones that were acknowledged.
pub(crate) fn create_topic(
    connection: &Connection,
    info: &TopicInfo,
    partitions: i32,
    high_water: &HashMap<i64, Offset>,
) -> rusqlite::Result<StoredTopic> {
    let spec = &info.spec;
    let limit = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    connection.execute(
        "INSERT INTO topic(name, uuid, partitions, retention_ms, retention_bytes, compacted) VALUES(?,?,?,?,?,?)",
        params![
            spec.name.as_str(),
            info.id.as_bytes(),
            partitions,
            spec.retention.map(|age| limit(age.as_millis())),
            spec.retention_bytes.map(|bytes| limit(bytes.into())),
            spec.compacted
        ],
    )?;
    let topic = connection.last_insert_rowid();
    let mut made = Vec::new();
    for number in 0..partitions {
        connection.execute(
            "INSERT INTO partition(topic_id, number, next_offset, start_offset) VALUES(?, ?, 0, 0)",
            params![topic, number],
        )?;
        let id = connection.last_insert_rowid();
        let next = high_water.get(&id).copied().unwrap_or(0);
        if next > 0 {
            connection.execute(
                "UPDATE partition SET next_offset = ?1, start_offset = ?1 WHERE id = ?2",
                params![next, id],
            )?;
            note_lost(connection, id, 0, next)?;
        }
        made.push((id, next));
    }
    Ok(StoredTopic { info: info.clone(), partitions: made })
}

fn note_lost(connection: &Connection, partition: i64, first: Offset, end: Offset) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO lost(partition_id, first, end) VALUES(?,?,?)",
        params![partition, first, end],
    )?;
    Ok(())
}

/// Lifts every partition to its high water, and notes what was lost.
pub(crate) fn lift(connection: &mut Connection, high_water: &HashMap<i64, Offset>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut changed = false;
    {
        let mut statement = transaction.prepare("SELECT id, next_offset FROM partition")?;
        let behind = statement
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Offset>(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for (id, next) in behind {
            let Some(high) = high_water.get(&id).copied().filter(|high| *high > next) else { continue };
            transaction.execute("UPDATE partition SET next_offset = ? WHERE id = ?", params![high, id])?;
            note_lost(&transaction, id, next, high)?;
            changed = true;
        }
    }
    if changed { transaction.commit() } else { Ok(()) }
}

/// All lost ranges, with the row id of their partition.
pub(crate) fn lost(connection: &Connection) -> rusqlite::Result<Vec<(i64, PartitionId, Offset, Offset)>> {
    let mut statement = connection.prepare(
        "SELECT p.id, t.name, p.number, l.first, l.end FROM lost l JOIN partition p ON p.id = l.partition_id
         JOIN topic t ON t.id = p.topic_id ORDER BY p.id, l.first",
    )?;
    let mut rows = statement.query([])?;
    let mut lost = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let Ok(topic) = TopicName::new(&name) else { continue };
        lost.push((row.get(0)?, PartitionId { topic, partition: row.get(2)? }, row.get(3)?, row.get(4)?));
    }
    Ok(lost)
}
