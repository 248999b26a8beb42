//! What only Kafka's partitions hold: transactions' markers, and what was rolled back.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, LETTER_BYTES, PartitionId, Start, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

fn record(value: Vec<u8>) -> NewRecord {
    NewRecord {
        topic: TopicName::new("t").unwrap(),
        partition: Some(0),
        key: None,
        headers: Headers::default(),
        value: Some(value.into()),
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    }
}

/// P10: a rebuild, a replay and the lag end where the log ends. Red when a reader's position stays before a marker, so
/// with `enable.partition.eof` off.
#[tokio::test]
async fn the_position_passes_the_marker_of_a_transaction() {
    let url = format!("{}?{}", cluster::url(), cluster::prefix());
    let log: Arc<dyn CommitLog> = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
    let topic = TopicName::new("t").unwrap();
    let spec = TopicSpec { partitions: Some(1), ..TopicSpec::new(topic.clone()) };
    log.ensure_topic(spec).await.unwrap();
    let partition = PartitionId { topic: topic.clone(), partition: 0 };
    let mut reader = log.cursor(&partition, Start::Earliest).await.unwrap();
    let mut producer = log.transactional_producer("x").await.unwrap();
    producer.commit(vec![record(b"one".to_vec()), record(b"two".to_vec())], None).await.unwrap();
    // Rolled back: its records are in the partition and are nobody's.
    let large = vec![b'x'; log.capabilities().max_record_bytes + LETTER_BYTES + 1];
    let refused = producer.commit(vec![record(b"never".to_vec()), record(large)], None).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::RecordTooLarge);
    producer.commit(vec![record(b"three".to_vec())], None).await.unwrap();
    let end = log.end_offsets(&topic).await.unwrap()[0];
    let mut values = Vec::new();
    let reading = async {
        while reader.position() < end {
            let batch = reader.read(100).await.unwrap();
            values.extend(Record::all(&batch).map(|record| record.value().unwrap().to_vec()));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the reader comes to the end");
    assert_eq!(values, [&b"one"[..], b"two", b"three"]);
    assert_eq!(reader.position(), end);
    assert!(end > 3, "there are markers");
}
