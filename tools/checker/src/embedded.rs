//! The embedded log's file and services' databases, as `docs/formats.md` describes them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use checker::{Observation, PartitionId, Place, Recorder, crc32, now};
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
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    let boot_minus_wall = i128::from(now()) - i128::try_from(wall)?;
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
        let stored = Stored::of(row)?;
        if let Some(saw) = stored.observe(&topics).with_context(|| stored.place.to_string())? {
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

/// Records between settled offsets and ends, over these groups' topics, and rows that wait in outboxes.
pub(crate) fn lag(path: &Path, reads: &[(String, String)], databases: &[PathBuf]) -> anyhow::Result<i64> {
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
    for database in databases {
        lag += open(database)?.query_row(
            "SELECT count(*) FROM aqueduct_outbox
             WHERE id > (SELECT coalesce(max(cursor), 0) FROM aqueduct_relay)",
            [],
            |row| row.get::<_, i64>(0),
        )?;
    }
    Ok(lag)
}

struct Stored {
    place: Place,
    key: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
    value: Option<Vec<u8>>,
}

impl Stored {
    fn of(row: &Row<'_>) -> anyhow::Result<Self> {
        let place = Place::new(row.get::<_, String>(0)?, row.get(1)?, row.get(2)?);
        let headers = row.get_ref(5)?.as_blob().map(headers)?;
        Ok(Self { place, key: row.get(4)?, headers, value: row.get(6)? })
    }

    /// What this record is: one of an event topic, or a copy that a group of `<group>.<topic>` set aside.
    fn observe(&self, topics: &BTreeMap<Vec<u8>, String>) -> anyhow::Result<Option<Observation>> {
        let name = self.place.topic.as_str();
        if name.ends_with(".outbox-cursor") || name.ends_with(".control") {
            return Ok(None);
        }
        if name.ends_with(".dead") {
            let header = |name: &str| self.headers.get(name).with_context(|| format!("no header {name}"));
            let topic = header("aqueduct_dead_topic")?.clone();
            let partition = header("aqueduct_dead_partition")?.parse()?;
            let place = Place { topic, partition, offset: header("aqueduct_dead_offset")?.parse()? };
            let group = group_of(name, &place.topic, ".dead")?;
            let crc = crc32(self.value.as_deref().unwrap_or_default());
            return Ok(Some(Observation::Letter { group, place, crc }));
        }
        if name.ends_with(".parked") {
            let key = self.key.as_deref().unwrap_or_default();
            let (uuid, offset) = key.split_at_checked(16).context("its key is no topic id and offset")?;
            let offset = i64::from_be_bytes(offset.try_into().context("its key is no topic id and offset")?);
            let topic = topics.get(uuid).context("its key names no topic")?;
            let place = Place { topic: topic.clone(), partition: self.place.partition, offset };
            let group = group_of(name, topic, ".parked")?;
            return Ok(Some(match &self.value {
                None => Observation::EndMark { group, place },
                Some(frame) => Observation::Parked { group, place, crc: crc32(parked_payload(frame)?) },
            }));
        }
        let key = self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        let crc = crc32(self.value.as_deref().unwrap_or_default());
        let id = self.headers.get("ce_id").cloned();
        Ok(Some(Observation::Record { place: self.place.clone(), id, key, crc }))
    }
}

fn group_of(name: &str, topic: &str, suffix: &str) -> anyhow::Result<String> {
    let group = name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix(topic)?.strip_suffix('.'));
    group.map(str::to_owned).with_context(|| format!("{name} is not of {topic}"))
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

/// What the frame of a parked copy says of its parts; the record's value stands last.
#[derive(Debug, serde::Deserialize)]
struct Described {
    value: Option<usize>,
}

/// The original value in a parked copy's frame: `[u8 1][u32 LE length][JSON][key][headers][value]`.
fn parked_payload(frame: &[u8]) -> anyhow::Result<&[u8]> {
    let cut = "the frame is cut short";
    let Some((1, rest)) = frame.split_first() else { bail!("the frame is of no known format") };
    let (length, rest) = rest.split_first_chunk::<4>().context(cut)?;
    let (json, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length))?).context(cut)?;
    let described: Described = serde_json::from_slice(json)?;
    let start = rest.len().checked_sub(described.value.unwrap_or(0)).context(cut)?;
    Ok(&rest[start..])
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
