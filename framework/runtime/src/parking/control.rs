//! The control topic of a group: operators ask for releases, owners tell how they ended; operators say which offsets
//! that cannot be read are passed over, and that stays. Values are JSON.

use std::{collections::BTreeMap, fmt::Write, ops::Range, sync::Arc, time::Duration};

use aqueduct_core::{
    BoxError, Headers, LogError, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, Offset, PartitionId, Start},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::scan::scan;

/// The newest format that is written and read.
const FORMAT: u8 = 1;

/// One record of the control topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    format: u8,
    /// The release that it is about; of something else its own id.
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
    /// An operator passes over offsets that cannot be read.
    Skip { topic: String, topic_id: Uuid, partition: i32, first: Offset, end: Offset },
}

/// Offsets of one history of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) partition: PartitionId,
    pub(crate) topic_id: Uuid,
    pub(crate) offsets: Range<Offset>,
}

/// What a record of the topic says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Asked(Asked),
    Done(Uuid),
    Skip(Skip),
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

/// The record that passes over offsets.
pub(crate) fn skip(
    control: &TopicName,
    id: Uuid,
    skip: &Skip,
    now: Timestamp,
) -> Result<NewRecord, serde_json::Error> {
    let Skip { partition: PartitionId { topic, partition }, topic_id, offsets } = skip;
    let (topic, first, end) = (topic.to_string(), offsets.start, offsets.end);
    let what = What::Skip { topic, topic_id: *topic_id, partition: *partition, first, end };
    record(control, &Message { format: FORMAT, release: id, what }, now)
}

fn read(value: &[u8]) -> Result<Said, BoxError> {
    let message: Message = serde_json::from_slice(value)?;
    if message.format != FORMAT {
        return Err(format!("its format is {}, this version knows {FORMAT}", message.format).into());
    }
    let (topic, partition, key) = match message.what {
        What::Asked { topic, partition, key } => (topic, partition, key),
        What::Done { .. } => return Ok(Said::Done(message.release)),
        What::Skip { topic, topic_id, partition, first, end } => {
            let partition = PartitionId { topic: TopicName::new(&topic)?, partition };
            return Ok(Said::Skip(Skip { partition, topic_id, offsets: first..end }));
        }
    };
    let digit = |at: usize| key.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..key.len()).step_by(2).map(digit).collect();
    let key = bytes.ok_or("its key is not hexadecimal")?;
    let partition = PartitionId { topic: TopicName::new(&topic)?, partition };
    Ok(Said::Asked(Asked { id: message.release, partition, key }))
}

/// Where an operator wants a reader to go on that cannot read `offset`; none where nobody has said so.
pub(crate) async fn skipped(
    log: &dyn CommitLog,
    control: TopicName,
    partition: &PartitionId,
    topic_id: Uuid,
    offset: Offset,
) -> Result<Option<Offset>, LogError> {
    // The topic is made by who asks first.
    if log.describe_topic(&control).await?.is_none() {
        return Ok(None);
    }
    let end = log.end_offsets(&control).await?.first().copied().unwrap_or(0);
    let mut to = None;
    scan(log, &PartitionId { topic: control, partition: 0 }, end, |record| {
        // What cannot be read is told where releases are followed.
        if let Ok(Said::Skip(skip)) = read(record.value().unwrap_or_default())
            && (&skip.partition, skip.topic_id) == (partition, topic_id)
            && skip.offsets.contains(&offset)
        {
            to = to.max(Some(skip.offsets.end));
        }
        Ok(())
    })
    .await?;
    Ok(to)
}

/// Releases that were asked for and are not done, in the order of asking.
#[derive(Debug, Default)]
pub(crate) struct Open {
    asked: BTreeMap<u64, Asked>,
    next: u64,
    /// Whether the topic was read to its end: before that, what was asked for may be done further on.
    known: bool,
}

impl Open {
    fn note(&mut self, record: &Record) {
        match read(record.value().unwrap_or_default()) {
            Ok(Said::Asked(asked)) => {
                self.asked.insert(self.next, asked);
                self.next += 1;
            }
            Ok(Said::Done(id)) => self.asked.retain(|_, asked| asked.id != id),
            // Looked for by who needs it.
            Ok(Said::Skip(_)) => {}
            Err(error) => {
                tracing::error!(?record, %error, "a control record that cannot be read is passed over");
            }
        }
    }

    /// Those for one partition; none before the topic is known.
    pub(crate) fn of<'a>(&'a self, partition: &'a PartitionId) -> impl Iterator<Item = &'a Asked> {
        self.asked.values().filter(move |asked| self.known && asked.partition == *partition)
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
    let end = log.end_offsets(&place.topic).await?.first().copied().unwrap_or(0);
    let mut reader = log.cursor(place, *start).await?;
    let mut told = 0;
    loop {
        // What is asked for and done within what was just read is not told.
        if reader.position() >= end {
            let new: Vec<_> = {
                let mut open = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                open.known = true;
                let new = open.asked.range(told..).map(|(_, asked)| asked.clone()).collect();
                told = open.next;
                new
            };
            if new.into_iter().any(|new| asked.send(new).is_err()) {
                return Ok(());
            }
        }
        let batch = reader.read(512).await?;
        for record in Record::all(&batch) {
            open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(&record);
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
        assert_eq!(read(&record.value.unwrap()).unwrap(), Said::Asked(asked.clone()));
        let record = done(&control, asked.id, Some("no".to_owned()), Timestamp::default()).unwrap();
        assert_eq!(read(&record.value.unwrap()).unwrap(), Said::Done(asked.id));
        let passed = Skip { partition: asked.partition, topic_id: Uuid::from_u128(9), offsets: 5..(1 << 60) };
        let record = skip(&control, asked.id, &passed, Timestamp::default()).unwrap();
        assert_eq!(read(&record.value.unwrap()).unwrap(), Said::Skip(passed));
        for bad in
            ["", "{}", r#"{"format":2,"release":"00000000-0000-0000-0000-000000000000","what":"done"}"#]
        {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// R3. Red when `follow_from` tells before it has come to the end: a release that was done long ago would release
    /// what was parked since.
    #[tokio::test]
    async fn what_was_done_is_not_told_again() {
        let log = aqueduct_memory::MemoryLog::new(1);
        super::super::ensure_control(&log, "g").await.unwrap();
        let control = super::super::control_topic("g").unwrap();
        let partition = PartitionId { topic: TopicName::new("t").unwrap(), partition: 0 };
        let now = Timestamp::default();
        let asked = |id| Asked { id: Uuid::from_u128(id), partition: partition.clone(), key: b"a".to_vec() };
        let mut records = vec![ask(&control, &asked(1), now).unwrap()];
        records.extend((10..1_000).map(|id| done(&control, Uuid::from_u128(id), None, now).unwrap()));
        records.push(done(&control, Uuid::from_u128(1), None, now).unwrap());
        records.push(ask(&control, &asked(2), now).unwrap());
        let (stored, told) = tokio::sync::oneshot::channel();
        let receipt = Box::new(|outcomes: aqueduct_core::log::Outcomes| stored.send(outcomes.len()).unwrap());
        log.producer().await.unwrap().enqueue(records, receipt);
        assert_eq!(told.await.unwrap(), 993);
        let (send, mut new) = mpsc::unbounded_channel();
        let open = Arc::new(std::sync::Mutex::new(Open::default()));
        let following = tokio::spawn(follow(Arc::new(log), control, Arc::clone(&open), send));
        assert_eq!(new.recv().await, Some(asked(2)));
        assert_eq!(open.lock().unwrap().of(&partition).collect::<Vec<_>>(), [&asked(2)]);
        following.abort();
    }
}
