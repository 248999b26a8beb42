//! What the client cannot read, in the files of a real broker: it is told with its offsets, stays, and is passed by
//! asking only.

use std::{fs::OpenOptions, os::unix::fs::FileExt, sync::Arc, time::Duration};

use aqueduct_core::{
    LogErrorKind, Record, TopicName,
    log::{CommitLog, Offset, PartitionId, PartitionReader, Start, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::cluster;

/// Where things are in a batch: the record batch of version 2 in Kafka's documentation of its protocol.
const LENGTH: usize = 8;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
/// Of the last record from the first.
const DELTA: usize = 23;
const RECORDS: usize = 61;

struct Topic {
    /// Its name in the cluster.
    wire: String,
    log: Arc<dyn CommitLog>,
    partition: PartitionId,
}

impl Topic {
    async fn new() -> Self {
        let prefix = cluster::prefix();
        let url = format!("{}?{prefix}", cluster::url());
        let log: Arc<dyn CommitLog> = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
        let topic = TopicName::new("t").unwrap();
        log.ensure_topic(TopicSpec { partitions: Some(1), ..TopicSpec::new(topic.clone()) }).await.unwrap();
        let wire = format!("{}t", prefix.strip_prefix("prefix=").unwrap());
        Self { wire, log, partition: PartitionId { topic, partition: 0 } }
    }

    /// Writes a batch of ten.
    fn batch(&self, codec: &str, from: Offset) {
        let mut config = cluster::raw();
        // Time to send ten. The flush ends the waiting, but not of what the client took to a broker at that instant.
        config.set("linger.ms", "2000").set("compression.type", codec);
        let producer: BaseProducer = config.create().unwrap();
        for number in from..from + 10 {
            // The same, so that it is worth compressing.
            let value = format!("{:0>200}", number);
            producer.send(BaseRecord::<(), _>::to(&self.wire).partition(0).payload(&value)).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// Does something to the batch that begins at `base`, in the broker's file.
    fn harm(&self, base: Offset, harm: impl FnOnce(&mut [u8])) {
        let path = cluster::data().join(format!("{}-0/{:020}.log", self.wire, 0));
        let bytes = std::fs::read(&path).unwrap();
        let mut at = 0;
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        while Offset::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) != base {
            at += LENGTH + 4 + number(at + LENGTH);
        }
        let mut batch = bytes[at..at + LENGTH + 4 + number(at + LENGTH)].to_vec();
        assert_eq!(batch[DELTA..DELTA + 4], 9_u32.to_be_bytes(), "a batch of ten");
        harm(&mut batch);
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&batch, at as u64).unwrap();
    }

    async fn reader(&self) -> Box<dyn PartitionReader> {
        self.log.cursor(&self.partition, Start::Earliest).await.unwrap()
    }
}

/// The numbers of the records up to `end`, or up to what cannot be read, with its offsets.
async fn read(reader: &mut dyn PartitionReader, end: Offset) -> (Vec<Offset>, Option<(Offset, Offset)>) {
    let mut numbers = Vec::new();
    while reader.position() < end {
        let read = tokio::time::timeout(Duration::from_secs(30), reader.read(100)).await.expect("an answer");
        match read {
            Ok(batch) => numbers.extend(Record::all(&batch).map(|record| {
                assert_eq!(record.value().unwrap().len(), 200);
                record.offset()
            })),
            Err(error) => {
                let LogErrorKind::Unreadable { first, end } = error.kind() else { panic!("{error}") };
                assert!(
                    error.to_string().starts_with(&format!("t/0 from {first} to before {end}: ")),
                    "{error}"
                );
                return (numbers, Some((first, end)));
            }
        }
    }
    (numbers, None)
}

/// P1, R2. Red when `judge` takes what it cannot read for something that passes, and when `end_of` takes the next offset.
#[tokio::test]
async fn a_batch_with_a_wrong_checksum_is_told_with_its_offsets_and_passed_by_asking() {
    let topic = Topic::new().await;
    for from in [0, 10, 20] {
        topic.batch("none", from);
    }
    for base in [10, 20] {
        topic.harm(base, |batch| *batch.last_mut().unwrap() ^= 1);
    }
    let mut reader = topic.reader().await;
    assert_eq!(read(&mut *reader, 30).await, ((0..10).collect(), Some((10, 20))));
    // It stays.
    assert_eq!(read(&mut *reader, 30).await, (vec![], Some((10, 20))));
    assert_eq!(reader.position(), 10);
    reader.seek(20);
    // The last of the partition.
    assert_eq!(read(&mut *reader, 30).await, (vec![], Some((20, 30))));
    reader.seek(30);
    topic.batch("none", 30);
    assert_eq!(read(&mut *reader, 40).await, ((30..40).collect(), None));
    // Who starts in the middle of it.
    let mut reader = topic.log.cursor(&topic.partition, Start::Offset(15)).await.unwrap();
    assert_eq!(read(&mut *reader, 30).await, (vec![], Some((15, 20))));
}

/// P1, R2. Red when `_BAD_COMPRESSION` is not taken for what can never be read.
#[tokio::test]
async fn a_batch_that_does_not_decompress_is_told_with_its_offsets() {
    let topic = Topic::new().await;
    let codecs = ["lz4", "zstd", "gzip", "snappy"];
    for (codec, from) in codecs.into_iter().zip((0..).step_by(20)) {
        topic.batch(codec, from);
        topic.batch("none", from + 10);
        topic.harm(from, |batch| {
            let damaged = RECORDS + (batch.len() - RECORDS) / 2;
            batch[damaged..].fill(0xff);
            let crc = crc32c(&batch[ATTRIBUTES..]);
            batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        });
    }
    let mut reader = topic.reader().await;
    for (codec, from) in codecs.into_iter().zip((0..).step_by(20)) {
        assert_eq!(read(&mut *reader, from + 20).await, (vec![], Some((from, from + 10))), "{codec}");
        reader.seek(from + 10);
        assert_eq!(read(&mut *reader, from + 20).await, ((from + 10..from + 20).collect(), None), "{codec}");
    }
}

/// P1, P12. Red when a codec that no client of ours knows is taken for an outage that will pass.
#[tokio::test]
async fn a_batch_of_an_unknown_codec_is_told_with_its_offsets() {
    let topic = Topic::new().await;
    topic.batch("none", 0);
    topic.batch("gzip", 10);
    topic.harm(10, |batch| {
        // The codec is in the lowest three bits of the attributes: 7 is nobody's.
        batch[ATTRIBUTES + 1] |= 7;
        let crc = crc32c(&batch[ATTRIBUTES..]);
        batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    });
    let mut reader = topic.reader().await;
    assert_eq!(read(&mut *reader, 20).await, ((0..10).collect(), Some((10, 20))));
}

/// P1. The client parses no more than 100,000 headers of a record. Red when what it says of that is not looked at: the
/// record had no headers then, and was another event or none.
#[tokio::test]
async fn a_record_whose_headers_do_not_parse_is_told_alone() {
    let topic = Topic::new().await;
    topic.batch("none", 0);
    let producer: BaseProducer = cluster::raw().create().unwrap();
    let headers = (0..=100_000).fold(OwnedHeaders::new_with_capacity(100_001), |headers, _| {
        headers.insert(Header { key: "h", value: Some("") })
    });
    let record = BaseRecord::<(), _>::to(&topic.wire).partition(0).payload("x").headers(headers);
    producer.send(record).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    topic.batch("none", 11);
    let mut reader = topic.reader().await;
    assert_eq!(read(&mut *reader, 21).await, ((0..10).collect(), Some((10, 11))));
    reader.seek(11);
    assert_eq!(read(&mut *reader, 21).await, ((11..21).collect(), None));
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    });
    !crc
}
