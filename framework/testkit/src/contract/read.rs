//! Reading a partition without a group.

use std::pin::pin;

use aqueduct_core::{NewRecord, Record, Timestamp, log::Start};
use tokio::sync::oneshot;

use super::tools::*;

/// P3. Red when a read takes records off before it is ready with them: those of a dropped read are then skipped.
pub async fn a_dropped_read_loses_nothing(log: Log) {
    make_topic(&log, "t", 1).await;
    let mut reader = cursor(&log, &at("t", 0), Start::Earliest).await;
    for n in 0..40 {
        let value = n.to_string();
        let mut records = None;
        {
            let mut reading = pin!(reader.read(10));
            if let Some(early) = poll(reading.as_mut(), 1).await {
                panic!("a read of nothing gave {early:?}");
            }
            append(&log, vec![plain("t", &value)]).await;
            // Dropped after a few polls more, each round at another place in what a read does.
            if let Some(batch) = poll(reading, n % 5).await {
                records = Some(Record::all(&batch.unwrap()).collect());
            }
        }
        let records = match records {
            Some(records) => records,
            None => read(&mut *reader, 1).await,
        };
        assert_eq!(texts(&records), [value]);
    }
}

/// P7, P3. Red when a start is off by one: `Offset` after its record, `Time` at one that is older, `Earliest` not at
/// the first, `Latest` at one that was there before.
pub async fn cursors_start_where_asked(log: Log) {
    make_topic(&log, "t", 1).await;
    let time = |second: i64| Timestamp::from_millis(1_700_000_000_000 + second * 1_000);
    let batch = (0..5).map(|n| NewRecord { timestamp: time(n * 10), ..plain("t", &n.to_string()) });
    let positions = append(&log, batch.collect()).await;
    let offset = |n: usize| positions[n].offset;
    for (start, first) in [
        (Start::Earliest, 0),
        (Start::Offset(offset(0)), 0),
        (Start::Offset(offset(3)), 3),
        (Start::Time(time(-1)), 0),
        (Start::Time(time(20)), 2),
        (Start::Time(time(21)), 3),
        (Start::Time(time(40)), 4),
    ] {
        let mut reader = cursor(&log, &at("t", 0), start).await;
        assert_eq!(reader.position(), offset(first), "{start:?}");
        let record = read(&mut *reader, 1).await.remove(0);
        assert_eq!((record.offset(), text(&record)), (offset(first), first.to_string()), "{start:?}");
        assert!(reader.position() > record.offset(), "a read moves the position past its records");
    }
    let end = within("asking for ends", log.end_offsets(&name("t"))).await.unwrap()[0];
    let mut at_end = Vec::new();
    for start in [Start::Latest, Start::Time(time(41)), Start::Offset(end)] {
        let reader = cursor(&log, &at("t", 0), start).await;
        assert_eq!(reader.position(), end, "{start:?}");
        at_end.push(reader);
    }
    append(&log, vec![plain("t", "next")]).await;
    for mut reader in at_end {
        assert_eq!(texts(&read(&mut *reader, 1).await), ["next"]);
    }
}

/// P10: lag is what the log says it is. Red when an end is the offset of the last record, or partitions are mixed up.
pub async fn end_offsets_are_after_the_last(log: Log) {
    make_topic(&log, "t", 3).await;
    let ends = async || within("asking for ends", log.end_offsets(&name("t"))).await.unwrap();
    assert_eq!(ends().await, [0, 0, 0]);
    let to = |partition| NewRecord { partition: Some(partition), ..plain("t", "") };
    let positions = append(&log, vec![to(0), to(2), to(2)]).await;
    let [first, _, last] = &positions[..] else { panic!("three positions, not {positions:?}") };
    assert_eq!(ends().await, [first.offset + 1, 0, last.offset + 1]);
}

/// P12: a position that the log does not have (it went back, or was replaced) is an error, not silence. Red when a
/// reader beyond the end waits for ever.
pub async fn offsets_outside_the_log_are_refused(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, vec![plain("t", "")]).await;
    for offset in [1_000, -1] {
        // Either the cursor is refused, or its first read.
        let result = match within("opening a cursor", log.cursor(&at("t", 0), Start::Offset(offset))).await {
            Err(error) => Err(error),
            Ok(mut reader) => within("reading outside the log", reader.read(1)).await,
        };
        assert_out_of_range(result);
    }
}

/// P2, P10: the window holds what was asked for. Red when a read gives more than `max`, or waits until it has `max`.
pub async fn reading_takes_at_most_what_was_asked(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, (0..10).map(|n| plain("t", &n.to_string())).collect()).await;
    let mut reader = cursor(&log, &at("t", 0), Start::Earliest).await;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let batch = within("reading", reader.read(3)).await.unwrap();
        assert!((1..=3).contains(&batch.len()), "{} records", batch.len());
        seen.extend(Record::all(&batch));
    }
    assert_eq!(texts(&seen), (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// P10. Red when an append does not wake a reader that waits at the end.
pub async fn reading_waits_and_wakes(log: Log) {
    make_topic(&log, "t", 1).await;
    let mut reader = cursor(&log, &at("t", 0), Start::Latest).await;
    let (told, waits) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut reading = pin!(read(&mut *reader, 1));
        assert!(poll(reading.as_mut(), 1).await.is_none(), "a read of nothing waits");
        told.send(()).unwrap();
        texts(&reading.await)
    });
    within("the reader's first poll", waits).await.unwrap();
    append(&log, vec![plain("t", "woken")]).await;
    assert_eq!(within("the reader's end", task).await.unwrap(), ["woken"]);
}
