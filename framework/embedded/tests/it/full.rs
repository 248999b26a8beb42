//! A log that is full (P1): what does not fit is refused whole, what was acknowledged stays, and there is a way on.

use aqueduct_core::{
    LogErrorKind,
    log::{CommitLog, Settlement, Signal, Start, TopicSpec},
};
use aqueduct_embedded::{EmbeddedLog, EmbeddedOptions};

use crate::tools::{
    append_values, assert_kind, count, enqueue, environment, keyed, name, open, options, path, read_to_end,
    sqlite, text,
};

const LIMIT: u64 = 256 << 10;

/// P1, P12. Red when a full database poisons the instance, says nothing of its limit, fails what needs no room beside
/// what does, or acknowledges what it rolls back.
#[tokio::test]
async fn a_full_log_refuses_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path()).max_bytes(LIMIT)).await.unwrap();
    let spec = TopicSpec { partitions: Some(1), ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    let consumer = log.consumer("g", &[name("t")]).await.unwrap();
    let Signal::Assigned(assignments) = consumer.signal().await.unwrap() else {
        panic!("Assigned was expected")
    };
    let producer = log.producer().await.unwrap();
    let mut acknowledged = Vec::new();
    let message = loop {
        let value = format!("{}:{}", acknowledged.len(), "x".repeat(10_000));
        match enqueue(&producer, vec![keyed("k", &value)]).await.unwrap().remove(0) {
            Ok(position) => acknowledged.push((position.offset, value)),
            Err(error) => break assert_kind::<()>(Err(error), LogErrorKind::Storage),
        }
    };
    let full = path(directory.path()).canonicalize().unwrap();
    assert!(
        message.starts_with(&format!("{}: the log is full (max_bytes = {LIMIT})", full.display())),
        "{message}"
    );
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());

    // Beside what does not fit, in one commit: a settlement, and records that fit. What is held is held.
    let large = "x".repeat(100_000);
    let settlement = Settlement {
        partition: assignments[0].partition.clone(),
        generation: assignments[0].generation,
        offset: 5,
        metadata: String::new(),
    };
    let before = enqueue(&producer, vec![keyed("a", "small")]);
    let failed = enqueue(&producer, vec![keyed("b", &large)]);
    let held = enqueue(&producer, vec![keyed("b", "small")]);
    let settled = consumer.settle(vec![settlement]).await.remove(0);
    settled.unwrap();
    let mut small = 0;
    for (receipt, fits) in [(before, true), (failed, false), (held, false)] {
        let outcome = receipt.await.unwrap().remove(0);
        match outcome {
            Ok(position) => {
                assert!(fits);
                small += 1;
                acknowledged.push((position.offset, "small".to_owned()));
            }
            Err(error) => {
                assert!(!fits, "{error}");
                assert!(matches!(error.kind(), LogErrorKind::Storage | LogErrorKind::Held), "{error}");
            }
        }
    }
    assert_eq!(small, 1);
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    let read: Vec<_> = records.iter().map(|record| (record.offset(), text(record))).collect();
    assert_eq!(read, acknowledged, "what was acknowledged, and nothing else");
    log.close().await.unwrap();
    let database = sqlite(&path(directory.path()));
    assert!(std::fs::metadata(path(directory.path())).unwrap().len() <= LIMIT);
    assert_eq!(count(&database, "SELECT count(*) FROM record"), i64::try_from(acknowledged.len()).unwrap());
    drop(database);
    // With a larger limit there is room again; offsets go on where they stood.
    let log = open(directory.path()).await;
    assert_eq!(log.lost_ranges(), []);
    let next = append_values(&log, 0..1).await[0];
    assert_eq!(next, acknowledged.last().unwrap().0 + 1);
}

/// P12. Red when an option is not read, or a value out of range is taken.
#[tokio::test]
async fn options_are_read_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let parse = |query: &str| {
        let url = format!("embedded:{}?{query}", path(directory.path()).display());
        EmbeddedOptions::parse(&url, environment())
    };
    let log =
        EmbeddedLog::open(parse("session=1500ms&max_bytes=131072&partitions=3").unwrap()).await.unwrap();
    let other = EmbeddedLog::open(parse("session=6s&partitions=3").unwrap()).await;
    let message = assert_kind(other, LogErrorKind::Configuration);
    assert!(message.contains("session = 1500 ms, max_bytes = 131072, not partitions = 3"), "{message}");
    log.ensure_topic(TopicSpec::new(name("t"))).await.unwrap();
    let consumer = log.consumer("g", &[name("t")]).await.unwrap();
    let database = sqlite(&path(directory.path()));
    assert_eq!(count(&database, "SELECT session_ms FROM group_member"), 1_500);
    drop(consumer);
    for (query, expected) in [
        ("session=6", "session must be like 10s or 1500ms"),
        ("session=100ms", "session must be from 500 ms to 1 h"),
        ("session=2h", "session must be like"),
        ("max_bytes=1000", "max_bytes must be at least 131072"),
        ("max_bytes=x", "max_bytes must be a whole number"),
        ("sesion=6s", "did you mean \"session\"?"),
    ] {
        let message = assert_kind(parse(query), LogErrorKind::Configuration);
        assert!(message.contains(expected), "{message}");
    }
}
