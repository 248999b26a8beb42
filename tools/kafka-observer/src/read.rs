//! Reads all that is committed.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use checker::{Place, Recorder, Stored, boot_minus_wall};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};

use crate::cluster::{PATIENCE, client, ends, number, uncommitted};

/// How long nothing may come before the reading is given up, and how long transactions may stay open.
const STANDSTILL: Duration = Duration::from_secs(90);

pub(crate) fn run(
    brokers: &str,
    reads: &[(String, String)],
    effects: Option<&str>,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let mut ids = Ids { reads, known: HashMap::new() };
    let boot_minus_wall = boot_minus_wall()?;
    // Of one partition, and so of one key, in the order of the log.
    let mut seq = 0;
    each(brokers, |stored, millis| {
        let at = u64::try_from(i128::from(millis) * 1_000 + boot_minus_wall).unwrap_or(0);
        if let Some(saw) = stored.observe(|id| ids.topic_of(&stored.place.topic, id))? {
            recorder.write_as(at, "observer", saw)?;
        }
        if effects == Some(stored.place.topic.as_str()) {
            seq += 1;
            recorder.write_as(at, "observer", stored.effect(seq)?)?;
        }
        Ok(())
    })
}

/// Gives each committed record, with its timestamp, to the ends of all topics: those of a partition in their order.
pub(crate) fn each(
    brokers: &str,
    mut give: impl FnMut(&Stored, i64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = client(brokers, "observer")?;
    let metadata = client.fetch_metadata(None, PATIENCE)?;
    let mut all = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| !topic.name().starts_with("__")) {
        for partition in topic.partitions() {
            all.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
        }
    }
    ensure!(all.count() > 0, "the cluster has no topics");
    wait_until_committed(brokers, &client, &all)?;
    client.assign(&all)?;
    let (mut open, mut last) = (all.count(), Instant::now());
    while open > 0 {
        match client.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => {
                let millis = message.timestamp().to_millis().context("a record without a timestamp")?;
                let stored = stored(&message);
                give(&stored, millis).with_context(|| stored.place.to_string())?;
                last = Instant::now();
            }
            // Nobody writes any more: each partition has one end.
            Some(Err(KafkaError::PartitionEOF(_))) => (open, last) = (open - 1, Instant::now()),
            Some(Err(error)) if last.elapsed() > STANDSTILL => return Err(error.into()),
            None if last.elapsed() > STANDSTILL => bail!("{open} partitions give nothing"),
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}

/// What an open transaction hides is not read.
fn wait_until_committed(
    brokers: &str,
    client: &BaseConsumer,
    all: &TopicPartitionList,
) -> anyhow::Result<()> {
    let uncommitted = uncommitted(brokers)?;
    let started = Instant::now();
    loop {
        let (stable, high) = (ends(client, all)?, ends(&uncommitted, all)?);
        let behind = high.elements().into_iter().find(|high| {
            let stable = stable.find_partition(high.topic(), high.partition());
            stable.and_then(|stable| number(stable.offset())) < number(high.offset())
        });
        let Some(behind) = behind else { return Ok(()) };
        ensure!(
            started.elapsed() < STANDSTILL,
            "a transaction on {}/{} stays open",
            behind.topic(),
            behind.partition()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// The names of topics by their ids. The client does not tell ids: the name of a topic of copies has that of its source
/// in it, and each has one id.
struct Ids<'a> {
    reads: &'a [(String, String)],
    known: HashMap<String, Vec<u8>>,
}

impl Ids<'_> {
    fn topic_of(&mut self, copies: &str, id: &[u8]) -> Option<String> {
        let named = |group: &str, topic: &str| format!("{group}.{topic}.parked") == copies;
        let (_, topic) = self.reads.iter().find(|(group, topic)| named(group, topic))?;
        let known = self.known.entry(topic.clone()).or_insert_with(|| id.to_owned());
        (known == id).then(|| topic.clone())
    }
}

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let mut headers = BTreeMap::new();
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
        headers.insert(header.key.to_owned(), value);
    }
    Stored {
        place: Place::new(message.topic(), message.partition(), message.offset()),
        key: message.key().map(<[u8]>::to_owned),
        headers,
        value: message.payload().map(<[u8]>::to_owned),
    }
}
