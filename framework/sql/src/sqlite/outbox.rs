//! The outbox: rows are written with the state that they tell of, in id order, and never changed.

use std::collections::HashMap;

use aqueduct_core::{EventId, Headers, NewRecord, Timestamp, TopicName, effects::OutboxStatus};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};

/// Staged events by type.
pub(super) type Counts = HashMap<String, i64>;

pub(super) fn stage(conn: &Connection, records: &[NewRecord], now: Timestamp) -> rusqlite::Result<Counts> {
    let mut counts = Counts::new();
    // A record that carries no id gets one here: the relay recognises its rows by it.
    let mut insert = conn.prepare_cached(
        "INSERT INTO aqueduct_outbox (event_id, event_type, topic, partition, key, headers, payload, timestamp, at)
         VALUES (coalesce(?1, randomblob(16)), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for record in records {
        let (id, event_type) = attributes(&record.headers);
        insert.execute(params![
            id,
            event_type,
            record.topic.as_str(),
            record.partition,
            record.key.as_deref(),
            &**record.headers.as_block(),
            record.value.as_deref(),
            record.timestamp.as_micros(),
            now.as_micros(),
        ])?;
        match counts.get_mut(&*event_type) {
            Some(count) => *count += 1,
            None => {
                counts.insert(event_type.into_owned(), 1);
            }
        }
    }
    Ok(counts)
}

fn attributes(headers: &Headers) -> (Option<Vec<u8>>, std::borrow::Cow<'_, str>) {
    let (mut id, mut source, mut event_type) = (None, "", "".into());
    for header in headers.iter() {
        let value = header.value.unwrap_or_default();
        match header.name {
            b"ce_id" => id = Some(EventId::parse(&String::from_utf8_lossy(value))),
            b"ce_source" => source = std::str::from_utf8(value).unwrap_or_default(),
            b"ce_type" => event_type = String::from_utf8_lossy(value),
            _ => {}
        }
    }
    (id.map(|id| id.mark(source).to_vec()), event_type)
}

/// A row on its way to the log.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) id: i64,
    pub(super) event_id: Vec<u8>,
    pub(super) record: NewRecord,
}

/// The rows after `cursor`, in id order: at most `rows`, and no more once there are `bytes`. Without a `LIMIT`: SQLite
/// plans a statement anew at each execution for the value of one that is bound.
pub(super) fn after(
    conn: &Connection,
    cursor: i64,
    rows: usize,
    bytes: usize,
) -> rusqlite::Result<Vec<Staged>> {
    let mut select = conn.prepare_cached(
        "SELECT id, event_id, topic, partition, key, headers, payload, timestamp
         FROM aqueduct_outbox WHERE id > ?1 ORDER BY id",
    )?;
    let mut found = select.query([cursor])?;
    let (mut staged, mut size) = (Vec::new(), 0);
    let mut topics: HashMap<String, TopicName> = HashMap::new();
    while let Some(row) = found.next()? {
        let next = read(row, &mut topics)?;
        size += next.record.size();
        staged.push(next);
        if size >= bytes || staged.len() >= rows {
            break;
        }
    }
    Ok(staged)
}

fn read(row: &Row<'_>, topics: &mut HashMap<String, TopicName>) -> rusqlite::Result<Staged> {
    let text = row.get_ref(2)?.as_str()?;
    let topic = match topics.get(text) {
        Some(topic) => topic.clone(),
        None => {
            let topic = TopicName::new(text)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into()))?;
            topics.insert(text.to_owned(), topic.clone());
            topic
        }
    };
    let bytes = |index| -> rusqlite::Result<Option<Bytes>> {
        Ok(row.get_ref(index)?.as_blob_or_null()?.map(Bytes::copy_from_slice))
    };
    Ok(Staged {
        id: row.get(0)?,
        event_id: row.get(1)?,
        record: NewRecord {
            topic,
            partition: row.get(3)?,
            key: bytes(4)?,
            headers: Headers::from_block(bytes(5)?.unwrap_or_default()),
            value: bytes(6)?,
            timestamp: Timestamp::from_micros(row.get(7)?),
        },
    })
}

/// The event id of a row, or none where there is no such row.
pub(super) fn event_of(conn: &Connection, id: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT event_id FROM aqueduct_outbox WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()
}

/// What no relay has moved yet.
pub(super) fn status(conn: &Connection) -> rusqlite::Result<OutboxStatus> {
    conn.prepare_cached(
        "SELECT count(*), (SELECT at FROM aqueduct_outbox WHERE id > cursor ORDER BY id LIMIT 1)
         FROM aqueduct_outbox, (SELECT coalesce(max(cursor), 0) AS cursor FROM aqueduct_relay)
         WHERE id > cursor",
    )?
    .query_row([], |row| {
        let oldest: Option<i64> = row.get(1)?;
        Ok(OutboxStatus { waiting: row.get(0)?, oldest: oldest.map(Timestamp::from_micros) })
    })
}
