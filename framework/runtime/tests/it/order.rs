use std::{sync::Arc, time::Duration};

use aqueduct_core::{Delivery, EventId, Handled, State};
use aqueduct_runtime::{Retry, Subscription};
use tokio::sync::Notify;

use crate::support::{Bench, Echoed, Seen, Stepped, step};

/// P2, P3. Red when `Partition::admit` starts a record whose lane is busy.
#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order_through_retries_and_others_do_not_wait() {
    async fn handle(delivery: Delivery<Stepped>, State(seen): State<Seen>) -> Handled {
        if delivery.event.key == "a" && delivery.attempt < 4 {
            return Err("not yet".into());
        }
        seen.note(&delivery.event);
        Ok(())
    }
    let bench = Bench::new(2).await;
    let seen = Seen::default();
    let events: Vec<_> = (1..=5).flat_map(|number| ["a", "b", "c"].map(|key| step(key, number))).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
    running.ended(15).await;
    for key in ["a", "b", "c"] {
        assert_eq!(seen.of(key), [1, 2, 3, 4, 5], "{key}");
    }
    let last_of_others = seen.all().iter().rposition(|(key, _)| key != "a").unwrap();
    assert_eq!(last_of_others, 9, "others were done before the first retry was: {:?}", seen.all());
    assert_eq!(running.status().retried, 15);
    running.end().await;
    assert_eq!(bench.settled().await, 15);
}

/// P3. Red when `Ring::end` or `settle` passes an open delivery.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_past_a_delivery_that_has_not_ended() {
    #[derive(Clone, Default)]
    struct Gate(Arc<Notify>, Seen);
    async fn handle(event: Stepped, State(Gate(open, seen)): State<Gate>) -> Handled {
        if event.key == "slow" {
            open.notified().await;
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let gate = Gate::default();
    let mut events = vec![step("first", 1), step("slow", 1)];
    events.extend((0..20).map(|number| step("fast", number)));
    bench.bus.publish_all(&events).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), gate.clone());
    running.ended(21).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.settled().await, 1, "the slow delivery is at offset 1");
    gate.0.notify_one();
    running.ended(22).await;
    running.end().await;
    assert_eq!(bench.settled().await, 22);
}

/// P2. Red when `admit` does not look at the window.
#[tokio::test(start_paused = true)]
async fn one_stuck_key_never_grows_memory_past_the_window() {
    async fn handle(event: Stepped, State(seen): State<Seen>) -> Handled {
        if event.key == "stuck" {
            std::future::pending::<()>().await;
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let mut events = vec![step("stuck", 0)];
    events.extend((0..1_000).map(|number| step("fast", number)));
    bench.bus.publish_all(&events).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle).window(100), Seen::default());
    running.ended(99).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = running.status();
    assert_eq!((status.ended, status.partitions.values().next().unwrap().in_flight), (99, 100));
    assert_eq!(running.end().await.unfinished, 1);
}

/// P3. Red when settled offsets are not stored, or `assign` ignores them. Without a fault nothing comes twice.
#[tokio::test(start_paused = true)]
async fn a_group_goes_on_where_it_stopped() {
    async fn handle(event: Stepped, State(seen): State<Seen>) -> Handled {
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(4).await;
    let seen = Seen::default();
    for round in 0..3 {
        bench
            .bus
            .publish_all(&(0..50).map(|n| step(&format!("k{}", n % 7), round * 50 + n)).collect::<Vec<_>>())
            .await
            .unwrap();
        let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
        running.ended(50).await;
        running.end().await;
    }
    assert_eq!(seen.all().len(), 150);
}

/// P4 without a database: a repeat has the ids of the first time. Red when `Draft::caused_by` takes a new id.
#[tokio::test(start_paused = true)]
async fn returned_events_are_published_under_ids_derived_from_the_delivery() {
    async fn echo(event: Stepped) -> Handled<Vec<Echoed>> {
        Ok((0..2).map(|number| Echoed { key: event.key.clone(), number }).collect())
    }
    let bench = Bench::new(1).await;
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let retry = Retry::exponential();
    for group in ["steps", "steps", "others"] {
        let running = bench.run(Subscription::builder(group).on(echo).retry(retry), ());
        running.ended(1).await;
        // The first end is not settled: the second run is a redelivery.
        running.task.abort();
        bench.log.faults().lose(group).unwrap();
    }
    let records = bench.records("echoes").await;
    let read =
        |index: usize| aqueduct_core::cloudevents::Incoming::read(&records[index], None).unwrap().envelope();
    let ids: Vec<EventId> = (0..records.len()).map(|index| read(index).id).collect();
    assert_eq!(ids.len(), 6);
    assert_eq!(ids[0..2], ids[2..4], "the same group again");
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0..2], ids[4..6], "another group");
    let source = bench.records("steps").await.pop().unwrap();
    let cause = aqueduct_core::cloudevents::Incoming::read(&source, None).unwrap().id();
    assert_eq!((read(0).causation, read(0).correlation), (Some(cause.clone()), Some(cause)));
}
