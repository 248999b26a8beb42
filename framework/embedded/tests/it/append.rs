//! Appending: few commits, and nothing that overtakes.

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{CommitLog, Start},
};
use rusqlite::Connection;

use crate::tools::{
    append, append_values, assert_kind, enqueue, keyed, make_topic, name, offsets, open, path, read_to_end,
    sqlite, text,
};

/// Commits in a write-ahead log: frames that carry the size of the database after them (the file format, §4.1).
fn commits(path: &std::path::Path) -> usize {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let log = std::fs::read(name).unwrap();
    let page = usize::try_from(u32::from_be_bytes(*log[8..].first_chunk().unwrap())).unwrap();
    log[32..]
        .chunks_exact(24 + page)
        .filter(|frame| frame[4..8] != [0; 4] && frame[8..16] == log[16..24])
        .count()
}

/// R7, group commit. Red when `gather` takes one command only.
#[tokio::test]
async fn what_queues_during_a_sync_shares_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    make_topic(&log, "t").await;
    let before = commits(&path(directory.path()));
    let producer = log.producer().await.unwrap();
    let receipts: Vec<_> = (0..2_000).map(|n| enqueue(&producer, vec![keyed("k", &n.to_string())])).collect();
    for receipt in receipts {
        receipt.await.unwrap().remove(0).unwrap();
    }
    let commits = commits(&path(directory.path())) - before;
    assert!((1..400).contains(&commits), "{commits} commits for 2,000 batches");
    let values: Vec<_> = read_to_end(&log, Start::Earliest).await.unwrap().iter().map(text).collect();
    assert_eq!(values, (0..2_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// P1: the settings that make a commit durable are in force in the file. Red when the journal is not a WAL.
/// (`synchronous` is a setting of the writer's connection, read back by it at open.)
#[tokio::test]
async fn the_file_is_ours_and_write_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..3).await;
    let connection = sqlite(&path(directory.path()));
    let pragma = |name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".to_owned()));
    assert_eq!(pragma("application_id"), rusqlite::types::Value::Integer(0x4151_4c47));
    assert_eq!(pragma("user_version"), rusqlite::types::Value::Integer(2));
    // The layout of docs/formats.md.
    let row: (i64, i64, Vec<u8>, Vec<u8>) = connection
        .query_row(
            "SELECT r.id, p.next_offset, r.key, r.value FROM record r JOIN partition p ON p.id = r.id >> 40
             JOIN topic t ON t.id = p.topic_id WHERE t.name = 't' AND r.id & ((1 << 40) - 1) = 2",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(row, (1 << 40 | 2, 3, b"k".to_vec(), b"value 2".to_vec()));
}

/// P2, R1: after a failed commit, what was enqueued for its keys before the receipt fails too, other keys do not.
/// Red when `Writer::fail` holds no keys. A foreign tool that sits in a transaction makes the failure.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_a_failed_commit() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..1).await;
    let tool = Connection::open(path(directory.path())).unwrap();
    tool.execute_batch("BEGIN IMMEDIATE").unwrap();
    let producer = log.producer().await.unwrap();
    let first = enqueue(&producer, vec![keyed("k", "first")]);
    let ended = {
        let producer = std::sync::Arc::clone(&producer);
        // By the time the first fails, after 5 s, these have long been enqueued.
        let queued =
            [enqueue(&producer, vec![keyed("k", "second")]), enqueue(&producer, vec![keyed("o", "other")])];
        let first = first.await.unwrap().remove(0);
        tool.execute_batch("ROLLBACK").unwrap();
        let message = assert_kind(first, LogErrorKind::Storage);
        assert!(message.contains("log.db"), "{message}");
        queued
    };
    let [second, other] = ended;
    let second = second.await.unwrap().remove(0);
    // In one commit with the first, or behind it.
    let kind = second.unwrap_err().kind();
    assert!(matches!(kind, LogErrorKind::Held | LogErrorKind::Storage), "{kind:?}");
    drop(other.await.unwrap());
    // The caller was told: the key goes on, and the log was not harmed.
    append(&log, vec![keyed("k", "third")]).await;
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    let of_k: Vec<_> = records.iter().filter(|record| record.key() == Some(b"k")).map(text).collect();
    assert_eq!(of_k, ["value 0", "third"]);
    assert_eq!(offsets(&records), (0..records.len()).map(|n| i64::try_from(n).unwrap()).collect::<Vec<_>>());
}

/// P9. Red when `close` does not write what was enqueued before it, or leaves the write-ahead log behind.
#[tokio::test]
async fn closing_finishes_what_was_enqueued() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    let producer = log.producer().await.unwrap();
    let receipts: Vec<_> = (0..500).map(|n| enqueue(&producer, vec![keyed("k", &n.to_string())])).collect();
    log.close().await.unwrap();
    for receipt in receipts {
        receipt.await.unwrap().remove(0).unwrap();
    }
    let mut wal = path(directory.path()).into_os_string();
    wal.push("-wal");
    assert!(!std::path::Path::new(&wal).exists(), "the last connection that closes removes it");
    let log = open(directory.path()).await;
    assert_eq!(read_to_end(&log, Start::Earliest).await.unwrap().len(), 500);
}

/// P4, P12. Red when `place` makes a topic before a later record, or the record itself, is refused.
#[tokio::test]
async fn what_is_refused_makes_no_topic() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    let nowhere = |topic: &str| NewRecord { topic: name(topic), partition: Some(99), ..keyed("k", "") };
    let fresh = NewRecord { topic: name("fresh"), ..keyed("k", "") };
    let mut producer = log.transactional_producer("x").await.unwrap();
    let commit = producer.commit(vec![fresh, nowhere("other")], None).await;
    let message = assert_kind(commit, LogErrorKind::Configuration);
    assert!(message.contains("there is no partition 99"), "{message}");
    let appended = enqueue(&log.producer().await.unwrap(), vec![nowhere("third")]).await.unwrap().remove(0);
    assert_kind(appended, LogErrorKind::Configuration);
    for topic in ["fresh", "other", "third"] {
        assert!(log.describe_topic(&name(topic)).await.unwrap().is_none(), "{topic}");
    }
}
