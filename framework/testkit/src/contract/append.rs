//! Appending: what was acknowledged is stored, in order, where its key says.

use std::{collections::BTreeMap, thread};

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{Start, TopicSpec},
};

use super::tools::*;

/// P1. Red when a record is acknowledged under another position than the one it can be read at.
pub async fn acknowledged_is_readable(log: Log) {
    make_topic(&log, "t", 3).await;
    let batch = (0..30).map(|n| keyed("t", &format!("key {n}"), &format!("value {n}"))).collect();
    for (n, position) in append(&log, batch).await.into_iter().enumerate() {
        let mut reader = cursor(&log, &position.partition, Start::Offset(position.offset)).await;
        let record = read(&mut *reader, 1).await.remove(0);
        assert_eq!(record.offset(), position.offset);
        assert_eq!(record.partition(), position.partition.partition);
        assert_eq!(record.topic(), &position.partition.topic);
        assert_eq!(
            (record.key(), text(&record)),
            (Some(format!("key {n}").as_bytes()), format!("value {n}"))
        );
    }
}

/// P12: a publisher needs no topic made for it. Red when appending to an unknown topic fails, or gives it another
/// number of partitions than the log's default.
pub async fn appending_makes_the_topic(log: Log) {
    append(&log, vec![keyed("new", "key", "value")]).await;
    let info = within("describing", log.describe_topic(&name("new"))).await.unwrap().expect("the topic");
    assert_eq!(info.spec.partitions, Some(4));
}

/// P6, P1: a compacted topic forgets no key. Red when compaction removes the last record of a key.
pub async fn compaction_keeps_the_last_of_each_key(log: Log) {
    let spec = TopicSpec { partitions: Some(1), compacted: true, ..TopicSpec::new(name("compacted")) };
    within("making a topic", log.ensure_topic(spec)).await.unwrap();
    let mut batch = Vec::new();
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            batch.push(keyed("compacted", key, &format!("{key}{round}")));
        }
    }
    // A tombstone is the last record of its key too.
    batch.push(NewRecord { value: None, ..keyed("compacted", "b", "") });
    let last = append(&log, batch).await.pop().expect("positions");
    let mut reader = cursor(&log, &at("compacted", 0), Start::Earliest).await;
    let mut found = BTreeMap::new();
    loop {
        let record = read(&mut *reader, 1).await.remove(0);
        found.insert(record.key().unwrap().to_vec(), record.value().map(<[u8]>::to_vec));
        if record.offset() == last.offset {
            break;
        }
    }
    let expected = [("a", Some("a19")), ("b", None), ("c", Some("c19"))];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(key, value)| (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec())))
        .collect();
    assert_eq!(found, expected);
}

/// P2, through many small batches in flight at once, from several threads. Red when batches of one producer are
/// stored in another order than they were enqueued in.
pub async fn enqueue_order_is_offset_order(log: Log) {
    const THREADS: usize = 4;
    const BATCHES: usize = 100;
    make_topic(&log, "t", 2).await;
    let producer = producer(&log).await;
    // Each thread has two keys of its own; a batch holds one record of each.
    let receipts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let producer = &producer;
                scope.spawn(move || -> Vec<_> {
                    (0..BATCHES)
                        .map(|n| {
                            let of_key = |key| keyed("t", &format!("{thread}{key}"), &n.to_string());
                            enqueue(producer, vec![of_key("a"), of_key("b")])
                        })
                        .collect()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut counts = BTreeMap::new();
    for outcomes in receipts {
        for outcome in receipt(outcomes).await {
            *counts.entry(outcome.unwrap().partition.partition).or_insert(0) += 1;
        }
    }
    let mut next: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (partition, count) in counts {
        let mut last = -1;
        for record in first_records(&log, &at("t", partition), count).await {
            assert!(record.offset() > last, "offsets grow");
            last = record.offset();
            let next = next.entry(record.key().unwrap().to_vec()).or_default();
            assert_eq!(text(&record), next.to_string(), "key {:?}", record.key());
            *next += 1;
        }
    }
    assert_eq!(next.len(), THREADS * 2);
    assert!(next.values().all(|count| *count == BATCHES), "each record is there once: {next:?}");
}

/// P2: other clients of the topic choose the same partition. Red when the key's hash is not murmur2 of the Java
/// client, or an explicit partition is overruled by the key.
pub async fn keys_choose_the_java_clients_partition(log: Log) {
    make_topic(&log, "t", 12).await;
    // From the hashes in Apache Kafka's UtilsTest.testMurmur2, made positive, modulo 12.
    let expected = [
        ("21", 0),
        ("foobar", 6),
        ("a-little-bit-long-string", 8),
        ("a-little-bit-longer-string", 11),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 5),
    ];
    let batch = expected.iter().map(|(key, _)| keyed("t", key, "")).collect();
    for (position, (key, partition)) in append(&log, batch).await.iter().zip(expected) {
        assert_eq!(position.partition.partition, partition, "{key}");
    }
    let chosen = NewRecord { partition: Some(11), ..keyed("t", "foobar", "") };
    assert_eq!(append(&log, vec![chosen]).await[0].partition, at("t", 11));
    // Without a key, no partition is left out.
    let batch = (0..120).map(|_| NewRecord { key: None, ..keyed("t", "", "") }).collect();
    let mut used: Vec<_> =
        append(&log, batch).await.iter().map(|position| position.partition.partition).collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "records without a key are spread, not all in {used:?}");
}

/// P2, P12. Red when one bad record fails its neighbours, or a later record of its key overtakes it.
pub async fn oversized_record_fails_alone(log: Log) {
    make_topic(&log, "t", 1).await;
    let producer = producer(&log).await;
    let bad = NewRecord { value: Some(oversized(&log)), ..keyed("t", "bad", "") };
    let batch = vec![
        keyed("t", "bad", "before"),
        bad,
        keyed("t", "good", "beside"),
        keyed("t", "bad", "after"),
        plain("t", "no key"),
    ];
    let mut outcomes = receipt(enqueue(&producer, batch)).await.into_iter();
    let mut next = || outcomes.next().expect("as many outcomes as records");
    next().unwrap();
    let message = assert_kind(next(), LogErrorKind::RecordTooLarge);
    assert!(message.contains('t') && message.contains("bad"), "it names topic and key: {message}");
    next().unwrap();
    let message = assert_kind(next(), LogErrorKind::Held);
    assert!(message.contains("bad"), "it names the key: {message}");
    next().unwrap();
    // The receipt was given: the key is free again.
    receipt(enqueue(&producer, vec![keyed("t", "bad", "again")])).await.remove(0).unwrap();
    assert_holds(&log, "t", &["before", "beside", "no key", "again"]).await;
}
