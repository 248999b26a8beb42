//! Saves what a cluster holds for programs that read the embedded log's file (`docs/formats.md`): topics, partitions and
//! records, no groups.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, ensure};
use checker::Stored;
use rusqlite::{Connection, params};

use crate::read;

/// The bits of an offset in a record's id.
const OFFSET_BITS: i64 = 40;

/// Offsets have holes where transactions end, so each topic is said to be compacted.
const TABLES: &str = "
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL, compacted INTEGER NOT NULL) STRICT;
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
        start_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL) STRICT;
    CREATE TABLE record (id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB, value BLOB) STRICT;";

pub(crate) fn run(brokers: &str, file: &Path) -> anyhow::Result<()> {
    ensure!(!file.exists(), "{} is there already", file.display());
    let mut connection =
        Connection::open(file).with_context(|| format!("cannot write {}", file.display()))?;
    let all = connection.transaction()?;
    all.execute_batch(TABLES)?;
    let mut topics: HashMap<String, i64> = HashMap::new();
    let mut partitions: HashMap<(i64, i32), i64> = HashMap::new();
    read::each(brokers, |stored, millis| {
        let Stored { place, key, headers, value } = stored;
        let next = i64::try_from(topics.len())? + 1;
        let topic = *topics.entry(place.topic.clone()).or_insert(next);
        if topic == next {
            all.execute("INSERT INTO topic VALUES (?1, ?2, 1)", params![topic, place.topic])?;
        }
        let next = i64::try_from(partitions.len())? + 1;
        let partition = *partitions.entry((topic, place.partition)).or_insert(next);
        if partition == next {
            let row = params![partition, topic, place.partition, place.offset];
            all.execute("INSERT INTO partition VALUES (?1, ?2, ?3, ?4, ?4)", row)?;
        }
        let row = params![place.offset + 1, partition];
        all.execute("UPDATE partition SET next_offset = ?1 WHERE id = ?2", row)?;
        let id = partition << OFFSET_BITS | place.offset;
        let row = params![id, millis * 1_000, key, block(headers)?, value];
        all.execute("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
        Ok(())
    })?;
    all.commit()?;
    Ok(())
}

/// The embedded log's block of headers.
fn block<'a>(headers: impl IntoIterator<Item = (&'a String, &'a String)>) -> anyhow::Result<Vec<u8>> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.extend(u16::try_from(name.len())?.to_le_bytes());
        block.extend(name.as_bytes());
        block.extend(i32::try_from(value.len())?.to_le_bytes());
        block.extend(value.as_bytes());
    }
    Ok(block)
}
