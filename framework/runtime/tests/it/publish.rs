use aqueduct_core::{Draft, EventId, LogErrorKind};
use aqueduct_runtime::PublishError;

use crate::support::{Bench, step};

fn kind(error: &PublishError) -> LogErrorKind {
    match error {
        PublishError::Log { source, .. } | PublishError::Batch { source, .. } => source.kind(),
        other => panic!("{other}"),
    }
}

/// P2. Red when `Bus::publish` enters the gate at the first poll.
#[tokio::test]
async fn the_place_in_the_order_is_taken_at_the_call() {
    let bench = Bench::new(1).await;
    let first = bench.bus.publish(&step("a", 1));
    let second = bench.bus.publish(&step("a", 2));
    let second = second.await.unwrap();
    let first = first.await.unwrap();
    assert!(first.offset < second.offset);
    // A future that nobody polls has published all the same.
    drop(bench.bus.publish(&step("a", 3)));
    assert_eq!(bench.records("steps").await.len(), 3);
}

/// P2, R1. Red when `Gate::complete` does not hold the keys that failed.
#[tokio::test]
async fn what_was_published_behind_a_failed_event_of_its_key_is_held() {
    let bench = Bench::new(1).await;
    bench.log.faults().fail_next_appends(1, LogErrorKind::Storage);
    let failed = bench.bus.publish(&step("a", 1));
    let held = bench.bus.publish(&step("a", 2));
    let other = bench.bus.publish(&step("b", 1));
    assert_eq!(kind(&held.await.unwrap_err()), LogErrorKind::Held);
    other.await.unwrap();
    let still_held = bench.bus.publish(&step("a", 3)).await.unwrap_err();
    assert_eq!(
        still_held.to_string(),
        "event with key a was not stored in steps: an earlier event of key a in steps failed, this one was not sent"
    );
    assert_eq!(kind(&failed.await.unwrap_err()), LogErrorKind::Storage);
    // The caller has seen the failure: the key goes on.
    bench.bus.publish(&step("a", 1)).await.unwrap();
    assert_eq!(bench.records("steps").await.len(), 2);
}

/// P2. Red when a failure whose caller went away holds its key for ever.
#[tokio::test]
async fn a_failure_that_nobody_waits_for_holds_nothing() {
    let bench = Bench::new(1).await;
    bench.log.faults().hold_receipts();
    bench.log.faults().fail_next_appends(1, LogErrorKind::Storage);
    drop(bench.bus.publish(&step("a", 1)));
    let other = bench.bus.publish(&step("b", 1));
    bench.log.faults().release_receipts();
    other.await.unwrap();
    bench.bus.publish(&step("a", 1)).await.unwrap();
}

/// R1. Red when `State::next` sends a batch while one is in flight.
#[tokio::test]
async fn no_more_is_in_flight_than_the_log_is_sized_for_and_order_holds() {
    let bench = Bench::new(1).await;
    bench.log.faults().hold_receipts();
    let batches: Vec<_> = (0..8)
        .map(|batch| {
            bench
                .bus
                .publish_all((0..10_000).map(|n| step("a", batch * 10_000 + n)).collect::<Vec<_>>().iter())
        })
        .collect();
    // One batch at a time.
    assert_eq!(bench.records("steps").await.len(), 10_000);
    bench.log.faults().release_receipts();
    for batch in batches {
        batch.await.unwrap();
    }
    let records = bench.records("steps").await;
    assert_eq!(records.len(), 80_000);
    let numbers: Vec<u32> = records
        .iter()
        .map(|record| {
            serde_json::from_slice::<crate::support::Stepped>(record.value().unwrap()).unwrap().number
        })
        .collect();
    assert!(numbers.is_sorted());
}

/// R1. Red when `State::next` sends one by one while a batch is in flight.
#[tokio::test]
async fn what_is_published_while_a_batch_is_in_flight_is_gathered_and_keeps_its_order() {
    let bench = Bench::new(1).await;
    bench.log.faults().hold_receipts();
    // The first finds the log idle and goes at once.
    let first = bench.bus.publish(&step("a", 0));
    assert_eq!(bench.records("steps").await.len(), 1);
    let singles: Vec<_> = (1..50).map(|number| bench.bus.publish(&step("a", number))).collect();
    let batch = bench.bus.publish_all((50..60).map(|n| step("a", n)).collect::<Vec<_>>().iter());
    assert_eq!(bench.records("steps").await.len(), 1);
    bench.log.faults().release_receipts();
    let mut offsets = vec![first.await.unwrap().offset];
    for single in singles {
        offsets.push(single.await.unwrap().offset);
    }
    offsets.extend(batch.await.unwrap().iter().map(|position| position.offset));
    // Each caller was told of its own records.
    assert_eq!(offsets, (0..60).collect::<Vec<_>>());
}

/// P2, R1. Red when `State::refuse` leaves gathered events of a failed key in the queue, or refuses those of others.
#[tokio::test]
async fn gathered_events_of_a_failed_key_are_held_and_the_others_go() {
    let bench = Bench::new(1).await;
    bench.log.faults().hold_receipts();
    bench.log.faults().fail_next_appends(1, LogErrorKind::Storage);
    let failed = bench.bus.publish(&step("a", 1));
    let other = bench.bus.publish(&step("b", 1));
    let both = bench.bus.publish_all([step("b", 2), step("a", 2)].iter());
    let last = bench.bus.publish(&step("b", 3));
    bench.log.faults().release_receipts();
    other.await.unwrap();
    last.await.unwrap();
    // A batch is one place: it is held as a whole.
    let error = both.await.unwrap_err();
    assert_eq!(kind(&error), LogErrorKind::Held);
    assert!(error.to_string().starts_with("2 of 2 events were not stored"), "{error}");
    assert_eq!(kind(&failed.await.unwrap_err()), LogErrorKind::Storage);
    assert_eq!(bench.records("steps").await.len(), 2);
}

/// P12. Red when the size is not checked before a place is taken.
#[tokio::test]
async fn an_oversized_event_is_refused_and_holds_nothing_up() {
    let bench = Bench::new(1).await;
    let big = crate::support::Stepped { key: "a".repeat(10 * 1024 * 1024), number: 1 };
    let error = bench.bus.publish(&big).await.unwrap_err().to_string();
    assert!(
        error.ends_with("is over the limit of 1048576 (max_record_bytes)"),
        "{}",
        &error[error.len() - 80..]
    );
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let empty = bench.bus.publish(&step("", 1)).await.unwrap_err().to_string();
    assert_eq!(empty, "cannot encode test.Stepped: its key is empty");
}

#[tokio::test]
async fn a_draft_keeps_the_callers_id() {
    let bench = Bench::new(1).await;
    let id = EventId::of_name("test", "1");
    bench.bus.publish(Draft::of(&step("a", 1)).unwrap().id(id.clone())).await.unwrap();
    let record = bench.records("steps").await.pop().unwrap();
    let incoming = aqueduct_core::cloudevents::Incoming::read(&record, None).unwrap();
    assert_eq!((incoming.id(), incoming.source()), (id, "aqueduct"));
}
