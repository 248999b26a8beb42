//! What a topic's specification keeps: exact here, so that a test can count on it.

use std::time::Duration;

use aqueduct_core::{
    NewRecord, Record, Timestamp,
    log::{CommitLog, Start, TopicSpec},
};
use aqueduct_memory::MemoryLog;

use crate::tools::{append, record, topic, values, zero};

async fn log(spec: impl FnOnce(&mut TopicSpec)) -> MemoryLog {
    let log = MemoryLog::new(1);
    let mut wanted = TopicSpec::new(topic());
    spec(&mut wanted);
    log.ensure_topic(wanted).await.unwrap();
    log
}

/// Red when `retention_bytes` counts something else than key, value and headers, or removes the newest record.
#[tokio::test]
async fn bytes_beyond_the_limit_push_the_oldest_out() {
    let log = log(|spec| spec.retention_bytes = Some(4)).await;
    for value in ["1", "2", "3"] {
        append(&log, vec![record("a", value)]).await;
    }
    assert_eq!(values(&log).await, ["2", "3"]);
    append(&log, vec![record("a", "more than four")]).await;
    assert_eq!(values(&log).await, ["more than four"]);
}

/// Red when age is measured by anything but the records' own times, or a young record goes because an older one
/// stands behind it.
#[tokio::test]
async fn records_older_than_the_newest_by_the_retention_are_removed() {
    let log = log(|spec| spec.retention = Some(Duration::from_secs(10))).await;
    let at = |second: i64, value| NewRecord {
        timestamp: Timestamp::from_millis(second * 1_000),
        ..record("a", value)
    };
    append(&log, vec![at(0, "0"), at(5, "5"), at(10, "10"), at(3, "3")]).await;
    assert_eq!(values(&log).await, ["0", "5", "10", "3"]);
    append(&log, vec![at(14, "14")]).await;
    assert_eq!(values(&log).await, ["5", "10", "3", "14"]);
    append(&log, vec![at(30, "30")]).await;
    assert_eq!(values(&log).await, ["30"]);
}

/// Red when compaction keeps an older record of a key, moves an offset, or counts as retention for a reader.
#[tokio::test]
async fn a_compacted_topic_keeps_one_record_of_each_key() {
    let log = log(|spec| spec.compacted = true).await;
    let keyless = NewRecord { key: None, ..record("", "no key") };
    let batch = vec![
        record("a", "1"),
        keyless,
        record("b", "2"),
        record("a", "3"),
        record("b", "4"),
        record("b", "5"),
    ];
    let mut reader = log.cursor(&zero(), Start::Offset(0)).await.unwrap();
    append(&log, batch).await;
    let batch = reader.read(100).await.unwrap();
    let offsets: Vec<_> = Record::all(&batch).map(|record| record.offset()).collect();
    assert_eq!(offsets, [1, 3, 5]);
    assert_eq!(values(&log).await, ["no key", "3", "5"]);
}
