//! The embedded log's file and services' databases, as `docs/formats.md` describes them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, ensure};
use checker::{Observation, PartitionId, Place, Recorder, Stored, boot_minus_wall};
use rusqlite::{Connection, OpenFlags, Row};

const LOG_ID: i64 = 0x4151_4c47;

/// Opens a log for reading, beside those who write it.
pub(crate) fn open(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

/// Reads every record, what was set aside, and what the log reports as gone.
pub(crate) fn read(path: &Path, recorder: &Recorder) -> anyhow::Result<()> {
    let connection = open(path)?;
    let id: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    ensure!(id == LOG_ID, "{} is not an embedded log", path.display());
    // Record timestamps are wall time; observations have the boot-time clock.
    let boot_minus_wall = boot_minus_wall()?;
    let topics: BTreeMap<Vec<u8>, String> = connection
        .prepare("SELECT uuid, name FROM topic")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut records = connection.prepare(
        "SELECT t.name, p.number, r.id & 0xffffffffff, r.timestamp, r.key, r.headers, r.value
         FROM topic t JOIN partition p ON p.topic_id = t.id
         JOIN record r ON r.id >= p.id << 40 AND r.id < (p.id + 1) << 40 ORDER BY r.id",
    )?;
    let mut rows = records.query([])?;
    while let Some(row) = rows.next()? {
        let at = u64::try_from(i128::from(row.get::<_, i64>(3)?) + boot_minus_wall).unwrap_or(0);
        let stored = stored(row)?;
        let saw = stored.observe(|uuid| topics.get(uuid).cloned());
        if let Some(saw) = saw.with_context(|| stored.place.to_string())? {
            recorder.write_as(at, "observer", saw)?;
        }
    }
    gone(&connection, recorder)?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "integrity_check: {check}");
    Ok(())
}

/// Reads what the log reports as gone.
pub(crate) fn gone(connection: &Connection, recorder: &Recorder) -> anyhow::Result<()> {
    let mut gone = connection.prepare(
        "SELECT t.name, p.number, l.first, l.end
         FROM lost l JOIN partition p ON p.id = l.partition_id JOIN topic t ON t.id = p.topic_id",
    )?;
    let mut rows = gone.query([])?;
    while let Some(row) = rows.next()? {
        let shard = PartitionId::new(row.get::<_, String>(0)?, row.get(1)?);
        recorder.write(Observation::Gone { shard, first: row.get(2)?, end: row.get(3)? })?;
    }
    Ok(())
}

/// Records between settled offsets and ends, over these groups' topics.
pub(crate) fn lag(path: &Path, reads: &[(String, String)]) -> anyhow::Result<i64> {
    let connection = open(path)?;
    let mut statement = connection.prepare(
        "SELECT coalesce(sum(p.next_offset - coalesce(g.settled, 0)), 0)
         FROM topic t JOIN partition p ON p.topic_id = t.id
         LEFT JOIN group_partition g ON g.partition_id = p.id AND g.group_name = ?1 WHERE t.name = ?2",
    )?;
    let mut lag = 0;
    for (group, topic) in reads {
        lag += statement.query_row([group, topic], |row| row.get::<_, i64>(0))?;
    }
    Ok(lag)
}

/// Rows that wait in a service's outbox.
pub(crate) fn outbox(path: &Path) -> anyhow::Result<i64> {
    Ok(open(path)?.query_row(
        "SELECT count(*) FROM aqueduct_outbox WHERE id > (SELECT coalesce(max(cursor), 0) FROM aqueduct_relay)",
        [],
        |row| row.get(0),
    )?)
}

fn stored(row: &Row<'_>) -> anyhow::Result<Stored> {
    let place = Place::new(row.get::<_, String>(0)?, row.get(1)?, row.get(2)?);
    let headers = row.get_ref(5)?.as_blob().map(headers)?;
    Ok(Stored { place, key: row.get(4)?, headers, value: row.get(6)? })
}

/// The block of headers; of repeated ones the last counts.
fn headers(mut block: &[u8]) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    while let Some((name, value, rest)) = header(block) {
        headers.insert(
            String::from_utf8_lossy(name).into_owned(),
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned(),
        );
        block = rest;
    }
    headers
}

/// Name and value of the first header, and the rest.
type Header<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn header(block: &[u8]) -> Option<Header<'_>> {
    let (length, rest) = block.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    match usize::try_from(i32::from_le_bytes(*length)) {
        Err(_) => Some((name, None, rest)),
        Ok(length) => rest.split_at_checked(length).map(|(value, rest)| (name, Some(value), rest)),
    }
}

/// Reads the table `effect` of a service's database.
pub(crate) fn effects(path: &Path, recorder: &Recorder) -> anyhow::Result<()> {
    let connection = open(path)?;
    let mut statement = connection.prepare(
        "SELECT seq, consumer_group, id, topic, partition, source_offset, generation, stages FROM effect
         ORDER BY seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let place = Place::new(row.get::<_, String>(3)?, row.get(4)?, row.get(5)?);
        let stages: Option<String> = row.get(7)?;
        recorder.write(Observation::Effect {
            group: row.get(1)?,
            id: row.get(2)?,
            place,
            generation: row.get(6)?,
            seq: row.get(0)?,
            stages: stages.into_iter().collect(),
        })?;
    }
    Ok(())
}
