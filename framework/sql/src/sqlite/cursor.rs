//! The log's own copy of a relay's cursor: a record of a compacted topic, committed together with the events that it
//! tells of.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, PartitionId, Start, TopicSpec},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const VERSION: u32 = 1;
/// The last record is the newest cursor; looking a little before it costs nothing.
const TAIL: i64 = 64;
const READ: usize = 512;
/// The end is known to be there, so a read that waits for it this long has met a broken log.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the events of one history of an outbox have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogCursor {
    v: u32,
    /// The id of the last row in the log.
    pub(super) cursor: i64,
    /// Its event id, in hexadecimal.
    event: String,
    incarnation: String,
}

impl LogCursor {
    pub(super) fn new(cursor: i64, event: &[u8], incarnation: Uuid) -> Self {
        Self { v: VERSION, cursor, event: hex(event), incarnation: incarnation.to_string() }
    }

    pub(super) fn is_of(&self, event: Option<&[u8]>) -> bool {
        // Before the first row there is no event, and the cursor names none.
        hex(event.unwrap_or_default()) == self.event
    }

    pub(super) fn is_under(&self, incarnation: Uuid) -> bool {
        self.incarnation == incarnation.to_string()
    }

    pub(super) fn record(
        &self,
        topic: &TopicName,
        outbox: &str,
        timestamp: Timestamp,
    ) -> Result<NewRecord, serde_json::Error> {
        Ok(NewRecord {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(outbox.to_owned().into_bytes().into()),
            headers: Headers::default(),
            value: Some(serde_json::to_vec(self)?.into()),
            timestamp,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The record that takes the cursor out of the log.
pub(super) fn none(topic: &TopicName, outbox: &str, timestamp: Timestamp) -> NewRecord {
    NewRecord {
        topic: topic.clone(),
        partition: Some(0),
        key: Some(outbox.to_owned().into_bytes().into()),
        headers: Headers::default(),
        value: None,
        timestamp,
    }
}

/// Makes the cursor's topic unless it is there.
pub(super) async fn topic(log: &Arc<dyn CommitLog>, outbox: &str) -> Result<TopicName, LogError> {
    let name = TopicName::new(&format!("{outbox}.outbox-cursor"))?;
    let mut spec = TopicSpec::new(name.clone());
    spec.partitions = Some(1);
    spec.compacted = true;
    log.ensure_topic(spec).await?;
    Ok(name)
}

/// The newest cursor in the log.
pub(super) async fn read(
    log: &Arc<dyn CommitLog>,
    topic: &TopicName,
    outbox: &str,
) -> Result<Option<LogCursor>, LogError> {
    let end = log.end_offsets(topic).await?.first().copied().unwrap_or(0);
    if end == 0 {
        return Ok(None);
    }
    match scan(log, topic, outbox, Start::Offset((end - TAIL).max(0)), end).await? {
        None if end > TAIL => scan(log, topic, outbox, Start::Earliest, end).await,
        found => Ok(found),
    }
}

async fn scan(
    log: &Arc<dyn CommitLog>,
    topic: &TopicName,
    outbox: &str,
    start: Start,
    end: i64,
) -> Result<Option<LogCursor>, LogError> {
    let partition = PartitionId { topic: topic.clone(), partition: 0 };
    let mut reader = log.cursor(&partition, start).await?;
    let mut found = None;
    while reader.position() < end {
        let batch = tokio::time::timeout(PATIENCE, reader.read(READ)).await.map_err(|_| {
            let message = format!("{partition}: its end {end} was not reached within {PATIENCE:?}");
            LogError::new(LogErrorKind::Unreachable, message)
        })??;
        for record in Record::all(&batch) {
            if record.key() == Some(outbox.as_bytes()) {
                found = if record.value().is_some() { Some(decode(&record)?) } else { None };
            }
        }
    }
    Ok(found)
}

fn decode(record: &Record) -> Result<LogCursor, LogError> {
    let cursor: LogCursor = serde_json::from_slice(record.value().unwrap_or_default()).map_err(|error| {
        LogError::with_source(LogErrorKind::Corrupt, format!("{record:?} is not an outbox cursor"), error)
    })?;
    if cursor.v > VERSION {
        let message = format!("{record:?} is an outbox cursor of format {}, known up to {VERSION}", cursor.v);
        return Err(LogError::new(LogErrorKind::Format, message));
    }
    Ok(cursor)
}
