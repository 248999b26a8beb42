//! The control topic of a group: operators ask for releases, owners tell how they ended. Values are JSON.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use aqueduct_core::{
    BoxError, Headers, LogError, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, PartitionId, Start},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The newest format that is written and read.
const FORMAT: u8 = 1;

/// One record of the control topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    format: u8,
    /// The release that it is about.
    release: Uuid,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum What {
    /// An operator asks for a key; its bytes in hexadecimal.
    Asked { topic: String, partition: i32, key: String },
    /// The owner is done: nothing of the key is parked, or its first record failed again.
    Done {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
}

/// A release that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: Uuid,
    pub(crate) partition: PartitionId,
    pub(crate) key: Vec<u8>,
}

fn record(control: &TopicName, message: &Message, now: Timestamp) -> Result<NewRecord, serde_json::Error> {
    Ok(NewRecord {
        topic: control.clone(),
        partition: Some(0),
        key: None,
        headers: Headers::default(),
        value: Some(serde_json::to_vec(message)?.into()),
        timestamp: now,
    })
}

/// The record that asks.
pub(crate) fn ask(
    control: &TopicName,
    asked: &Asked,
    now: Timestamp,
) -> Result<NewRecord, serde_json::Error> {
    let key = asked.key.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let topic = asked.partition.topic.to_string();
    let what = What::Asked { topic, partition: asked.partition.partition, key };
    record(control, &Message { format: FORMAT, release: asked.id, what }, now)
}

/// The record that ends a release.
pub(crate) fn done(
    control: &TopicName,
    id: Uuid,
    failure: Option<String>,
    now: Timestamp,
) -> Result<NewRecord, serde_json::Error> {
    record(control, &Message { format: FORMAT, release: id, what: What::Done { failure } }, now)
}

fn read(value: &[u8]) -> Result<(Uuid, Option<Asked>), BoxError> {
    let message: Message = serde_json::from_slice(value)?;
    if message.format != FORMAT {
        return Err(format!("its format is {}, this version knows {FORMAT}", message.format).into());
    }
    let What::Asked { topic, partition, key } = message.what else { return Ok((message.release, None)) };
    let digit = |at: usize| key.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..key.len()).step_by(2).map(digit).collect();
    let key = bytes.ok_or("its key is not hexadecimal")?;
    let partition = PartitionId { topic: TopicName::new(&topic)?, partition };
    Ok((message.release, Some(Asked { id: message.release, partition, key })))
}

/// Releases that were asked for and are not done, in the order of asking.
#[derive(Debug, Default)]
pub(crate) struct Open {
    asked: BTreeMap<u64, Asked>,
    next: u64,
}

impl Open {
    fn note(&mut self, record: &Record) -> Option<Asked> {
        match read(record.value().unwrap_or_default()) {
            Ok((_, Some(asked))) => {
                self.asked.insert(self.next, asked.clone());
                self.next += 1;
                Some(asked)
            }
            Ok((id, None)) => {
                self.asked.retain(|_, asked| asked.id != id);
                None
            }
            Err(error) => {
                tracing::error!(?record, %error, "a control record that cannot be read is passed over");
                None
            }
        }
    }

    /// Those for one partition.
    pub(crate) fn of<'a>(&'a self, partition: &'a PartitionId) -> impl Iterator<Item = &'a Asked> {
        self.asked.values().filter(move |asked| asked.partition == *partition)
    }
}

/// Follows the control topic for ever: keeps `open`, and tells of each release when it is asked for.
pub(crate) async fn follow(
    log: Arc<dyn CommitLog>,
    control: TopicName,
    open: Arc<std::sync::Mutex<Open>>,
    asked: mpsc::UnboundedSender<Asked>,
) {
    let place = PartitionId { topic: control, partition: 0 };
    let mut start = Start::Earliest;
    let mut delay = Duration::from_millis(50);
    loop {
        let error = match follow_from(&*log, &place, &mut start, &open, &asked).await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::warn!(control = %place, %error, ?delay, "cannot read releases, trying again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(10));
    }
}

async fn follow_from(
    log: &dyn CommitLog,
    place: &PartitionId,
    start: &mut Start,
    open: &std::sync::Mutex<Open>,
    asked: &mpsc::UnboundedSender<Asked>,
) -> Result<(), LogError> {
    let mut reader = log.cursor(place, *start).await?;
    loop {
        let batch = reader.read(512).await?;
        for record in Record::all(&batch) {
            let new = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(&record);
            if let Some(new) = new
                && asked.send(new).is_err()
            {
                return Ok(());
            }
        }
        *start = Start::Offset(reader.position());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back() {
        let control = TopicName::new("g.control").unwrap();
        let partition = PartitionId { topic: TopicName::new("t").unwrap(), partition: 3 };
        let asked = Asked { id: Uuid::from_u128(7), partition, key: b"a/\xff\0".to_vec() };
        let record = ask(&control, &asked, Timestamp::default()).unwrap();
        assert_eq!(read(&record.value.unwrap()).unwrap(), (asked.id, Some(asked.clone())));
        let record = done(&control, asked.id, Some("no".to_owned()), Timestamp::default()).unwrap();
        assert_eq!(read(&record.value.unwrap()).unwrap(), (asked.id, None));
        for bad in
            ["", "{}", r#"{"format":2,"release":"00000000-0000-0000-0000-000000000000","what":"done"}"#]
        {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
