//! Retention and compaction. The first run is due when the log is opened.

use std::{path::Path, sync::Arc, time::Duration};

use aqueduct_core::{
    LogErrorKind, NewRecord, Timestamp,
    log::{CommitLog, Start, TopicSpec},
};
use aqueduct_embedded::{EmbeddedLog, EmbeddedOptions};

use crate::tools::{
    Standing, append, assert_kind, at_time, count, keyed, name, offsets, path, read_to_end, sqlite, until,
    zero,
};

const HOUR: i64 = 3_600_000_000;

async fn open_at(directory: &Path, clock: &Standing) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(EmbeddedOptions::new(path(directory), at_time(clock)).partitions(1)).await.unwrap()
}

async fn first(log: &EmbeddedLog) -> i64 {
    log.cursor(&zero("t"), Start::Earliest).await.unwrap().position()
}

/// Red when retention removes what is young enough, more than 1,000 rows stop it, or readers below are not told.
#[tokio::test]
async fn retention_by_time_moves_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Standing::default();
    let log = open_at(directory.path(), &clock).await;
    let spec = TopicSpec { retention: Some(Duration::from_secs(3_600)), ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    let at = |micros| NewRecord { timestamp: Timestamp::from_micros(micros), ..keyed("k", "value") };
    append(&log, (0..2_500).map(|_| at(HOUR)).collect()).await;
    append(&log, (0..10).map(|_| at(2 * HOUR)).collect()).await;
    let mut behind = log.cursor(&zero("t"), Start::Offset(100)).await.unwrap();
    log.close().await.unwrap();

    clock.set(2 * HOUR + HOUR / 2);
    let log = open_at(directory.path(), &clock).await;
    until("retention", async || first(&log).await == 2_500).await;
    assert_eq!(
        offsets(&read_to_end(&log, Start::Earliest).await.unwrap()),
        (2_500..2_510).collect::<Vec<_>>()
    );
    assert_kind(behind.read(1).await, LogErrorKind::Closed);
    behind = log.cursor(&zero("t"), Start::Offset(100)).await.unwrap();
    assert_kind(behind.read(1).await, LogErrorKind::OffsetOutOfRange { first: 2_500, end: 2_510 });
    log.close().await.unwrap();

    // All of it is old: the next offset stays.
    clock.set(9 * HOUR);
    let log = open_at(directory.path(), &clock).await;
    until("retention", async || first(&log).await == 2_510).await;
    assert_eq!(append(&log, vec![at(9 * HOUR)]).await[0].offset, 2_510);
}

/// Red when the bytes are not added up from the newest record down.
#[tokio::test]
async fn retention_by_size_keeps_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Standing::default();
    let log = open_at(directory.path(), &clock).await;
    // A record has 100 bytes: the newest 1,500 fit.
    let spec = TopicSpec { retention_bytes: Some(150_000), ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    append(&log, (0..4_000).map(|_| keyed("k", &"x".repeat(99))).collect()).await;
    log.close().await.unwrap();
    let log = open_at(directory.path(), &clock).await;
    until("retention", async || first(&log).await == 2_500).await;
    assert_eq!(read_to_end(&log, Start::Earliest).await.unwrap().len(), 1_500);
    assert_eq!(count(&sqlite(&path(directory.path())), "SELECT count(*) FROM record"), 1_500);
}

/// Red when a key's last record, a record without a key, a young tombstone, or anything of another topic goes, or an
/// old tombstone stays.
#[tokio::test]
async fn compaction_leaves_the_last_of_each_key() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Standing::default();
    clock.set(100 * HOUR);
    let log = open_at(directory.path(), &clock).await;
    let spec = TopicSpec { compacted: true, ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    let tombstone =
        |key, micros| NewRecord { value: None, timestamp: Timestamp::from_micros(micros), ..keyed(key, "") };
    let mut batch: Vec<_> = (0..2_500).map(|n| keyed(&format!("k{}", n % 10), &n.to_string())).collect();
    batch.push(NewRecord { key: None, ..keyed("", "no key") });
    batch.push(tombstone("k3", 99 * HOUR));
    batch.push(tombstone("k4", HOUR));
    batch.push(keyed("k5", "last"));
    append(&log, batch.clone()).await;
    let plain = batch.into_iter().map(|record| NewRecord { topic: name("plain"), ..record });
    append(&log, plain.collect()).await;
    log.close().await.unwrap();

    let log = open_at(directory.path(), &clock).await;
    let kept = "SELECT count(*) FROM record WHERE id >> 40 = 1";
    let connection = sqlite(&path(directory.path()));
    // k0..k9 without k3 and k4 and k5: 7; no key, k3's tombstone, k5: 3; k4's is too old to stay.
    until("compaction", async || count(&connection, kept) == 10).await;
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    let mut expected: Vec<i64> = [0, 1, 2, 6, 7, 8, 9].map(|n| 2_490 + n).to_vec();
    expected.extend([2_500, 2_501, 2_503]);
    assert_eq!(offsets(&records), expected);
    assert_eq!(count(&connection, "SELECT count(*) FROM record WHERE id >> 40 = 2"), 2_504);
    log.close().await.unwrap();

    // A day later the young tombstone goes too, and a second pass takes nothing else.
    clock.set(99 * HOUR + 25 * HOUR);
    let log = open_at(directory.path(), &clock).await;
    until("compaction", async || count(&connection, kept) == 9).await;
    assert_eq!(first(&log).await, 0, "compaction moves no start");
}
