//! The raw loops on SQLite: one connection, prepared statements, buffers that are used again, the settings and the
//! table of the embedded log, and nothing else.

use std::path::Path;

use anyhow::ensure;
use aqueduct::{
    Environment,
    core::key::partition_of,
    rusqlite::{Connection, OpenFlags, params},
};

use crate::{
    events::Sold,
    measure::{Cost, Stopwatch},
};

/// Partitions of a topic, as the scoreboard has it.
pub const PARTITIONS: i32 = 12;
/// How much is appended between two checkpoints, as the embedded log has it.
const CHECKPOINT_BYTES: usize = 16 << 20;
/// Bits of a row's id that hold its offset, as the embedded log has it.
const OFFSET_BITS: u32 = 40;

const TABLES: &str = "
CREATE TABLE partition(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
  next_offset INTEGER NOT NULL, start_offset INTEGER NOT NULL, UNIQUE(topic_id, number));
CREATE TABLE record(id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB NOT NULL,
  value BLOB, crc INTEGER NOT NULL);
";

/// Opens a connection that writes, with the durability of the embedded log.
///
/// # Errors
/// SQLite's.
pub fn open_writer(path: &Path, checkpoint_pages: u32) -> anyhow::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(connection)
}

/// Encodes `count` events of the pool and inserts them, in transactions of these sizes, over and over.
///
/// # Errors
/// SQLite's.
pub fn insert(
    path: &Path,
    pool: &[Sold],
    count: u64,
    sizes: &[usize],
    environment: &Environment,
) -> anyhow::Result<Cost> {
    ensure!(!sizes.is_empty(), "no transaction sizes were told: has our side run?");
    let connection = open_writer(path, 0)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.execute_batch(TABLES)?;
    let partitions = i64::from(PARTITIONS);
    for number in 0..partitions {
        connection.execute(
            "INSERT INTO partition(topic_id, number, next_offset, start_offset) VALUES(1, ?, 0, 0)",
            [number],
        )?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let stopwatch = Stopwatch::start();
    let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
    let mut insert = connection
        .prepare("INSERT INTO record(id, timestamp, key, headers, value, crc) VALUES(?,?,?,?,?,?)")?;
    let mut update = connection.prepare("UPDATE partition SET next_offset = ? WHERE id = ?")?;
    let mut commit = connection.prepare("COMMIT")?;
    let mut next = vec![0_i64; usize::try_from(PARTITIONS)?];
    let mut touched = vec![false; next.len()];
    let (mut headers, mut value) = (Vec::with_capacity(512), Vec::with_capacity(512));
    let (mut done, mut unchecked) = (0, 0);
    let mut events = pool.iter().cycle();
    for size in sizes.iter().cycle() {
        let size = u64::try_from(*size)?.min(count - done);
        if size == 0 {
            break;
        }
        begin.execute([])?;
        for event in events.by_ref().take(usize::try_from(size)?) {
            let key = event.account.as_bytes();
            value.clear();
            serde_json::to_writer(&mut value, event)?;
            headers.clear();
            put(&mut headers, b"ce_specversion", b"1.0")?;
            let mut id = [0; 36];
            environment.new_id().hyphenated().encode_lower(&mut id);
            put(&mut headers, b"ce_id", &id)?;
            put(&mut headers, b"ce_type", b"bench.Sold")?;
            put(&mut headers, b"ce_source", b"aqueduct")?;
            let partition = usize::try_from(partition_of(key, PARTITIONS))?;
            let offset = next[partition];
            next[partition] += 1;
            touched[partition] = true;
            let row = ((i64::try_from(partition)? + 1) << OFFSET_BITS) | offset;
            let timestamp = environment.now().as_micros();
            let crc = checksum(row, timestamp, key, &headers, &value);
            insert.execute(params![row, timestamp, key, &headers[..], &value[..], crc])?;
            unchecked += key.len() + headers.len() + value.len();
        }
        for (partition, touched) in touched.iter_mut().enumerate().filter(|(_, touched)| **touched) {
            *touched = false;
            update.execute([next[partition], i64::try_from(partition)? + 1])?;
        }
        commit.execute([])?;
        done += size;
        if unchecked >= CHECKPOINT_BYTES {
            unchecked = 0;
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
    }
    let cost = stopwatch.stop(count);
    Ok(cost)
}

fn put(headers: &mut Vec<u8>, name: &[u8], value: &[u8]) -> anyhow::Result<()> {
    headers.extend_from_slice(&u16::try_from(name.len())?.to_le_bytes());
    headers.extend_from_slice(name);
    headers.extend_from_slice(&i32::try_from(value.len())?.to_le_bytes());
    headers.extend_from_slice(value);
    Ok(())
}

/// The checksum that the embedded log stores: the same bytes on both sides.
fn checksum(id: i64, timestamp: i64, key: &[u8], headers: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut fixed = [0; 28];
    fixed[..8].copy_from_slice(&id.to_le_bytes());
    fixed[8..16].copy_from_slice(&timestamp.to_le_bytes());
    for (at, part) in [(16, key), (20, headers), (24, value)] {
        let length = i32::try_from(part.len()).unwrap_or(i32::MAX);
        fixed[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    hasher.update(&fixed);
    hasher.update(key);
    hasher.update(headers);
    hasher.update(value);
    hasher.finalize()
}

/// Selects every record by partition and decodes it.
///
/// # Errors
/// SQLite's, or a payload does not decode.
pub fn select(path: &Path, count: u64) -> anyhow::Result<Cost> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    let stopwatch = Stopwatch::start();
    let mut seen = 0;
    let partitions = connection
        .prepare("SELECT id FROM partition ORDER BY id")?
        .query_map([], |row| row.get::<_, i64>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut select =
        connection.prepare("SELECT id, key, value FROM record WHERE id >= ? AND id < ? ORDER BY id")?;
    for partition in partitions {
        let mut rows = select.query([partition << OFFSET_BITS, (partition + 1) << OFFSET_BITS])?;
        while let Some(row) = rows.next()? {
            // Where it stands, and what it is: a consumer needs no less.
            std::hint::black_box(row.get::<_, i64>(0)?);
            let event: Sold = serde_json::from_slice(row.get_ref(2)?.as_blob()?)?;
            std::hint::black_box(&event);
            seen += 1;
        }
    }
    let cost = stopwatch.stop(seen);
    ensure!(seen == count, "{seen} records were selected, {count} were published");
    Ok(cost)
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// Records.
    pub records: u64,
    /// The sum of the next offsets.
    pub ends: u64,
    /// Bytes of keys, headers and values.
    pub bytes: u64,
}

/// Looks into a file, by plain SQL.
///
/// # Errors
/// SQLite's.
pub fn held(path: &Path) -> anyhow::Result<Held> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok(Held {
        records: u64::try_from(one("SELECT count(*) FROM record")?)?,
        ends: u64::try_from(one("SELECT sum(next_offset) FROM partition")?)?,
        bytes: u64::try_from(one(
            "SELECT coalesce(sum(length(key) + length(headers) + length(value)), 0) FROM record",
        )?)?,
    })
}
