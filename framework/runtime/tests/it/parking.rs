use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    Delivery, Handled, LogErrorKind, RetryAfter, State, Terminal, TopicName,
    log::{CommitLog, PartitionId},
};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, ParkedKey, Retry, Subscription, parked, release};

use crate::support::{Bench, Seen, Stepped, step, until};

/// Fails events of the keys that start with `bad` until it is told that all is well.
#[derive(Clone, Default)]
struct Shop {
    seen: Seen,
    well: Arc<AtomicBool>,
    attempts: Arc<AtomicU32>,
}

async fn handle(event: Stepped, State(shop): State<Shop>) -> Handled {
    if event.key.starts_with("bad") && !shop.well.load(Ordering::Relaxed) {
        shop.attempts.fetch_add(1, Ordering::Relaxed);
        return Err(Terminal::new("not well").into());
    }
    shop.seen.note(&event);
    Ok(())
}

fn subscription() -> Subscription<Shop> {
    Subscription::builder("steps").on(handle).retry(Retry::exponential().attempts(3))
}

impl Bench {
    async fn parked(&self) -> Vec<ParkedKey> {
        parked(&self.bus, "steps", &TopicName::new("steps").unwrap()).await.unwrap()
    }

    async fn release(&self, key: &ParkedKey) {
        release(&self.bus, "steps", &key.partition, &key.key).await.unwrap();
    }
}

/// P2, P6. Red when `park` leaves the lane's queue where it was.
#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_with_its_successors_and_others_go_on() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish_all(&[step("bad", 1), step("good", 1), step("bad", 2)]).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(3).await;
    bench.bus.publish_all(&[step("bad", 3), step("good", 2)]).await.unwrap();
    running.ended(5).await;
    assert_eq!((shop.seen.of("good"), shop.seen.of("bad")), (vec![1, 2], vec![]));
    let key = bench.parked().await.pop().unwrap();
    assert_eq!((&*key.key, key.records, key.offset, key.attempts), (&b"bad"[..], 3, 0, 1));
    assert_eq!((&*key.reason, key.due), ("not well", None));
    let status = running.status();
    assert_eq!((status.parked, status.dead_letters, status.ready()), (3, 0, true));
    assert_eq!(status.partitions.values().next().unwrap().parked, 3);
    shop.well.store(true, Ordering::Relaxed);
    bench.release(&key).await;
    until(|| shop.seen.of("bad").len() == 3).await;
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    bench.bus.publish(&step("bad", 4)).await.unwrap();
    until(|| shop.seen.of("bad").len() == 4).await;
    assert_eq!(shop.seen.of("bad"), [1, 2, 3, 4]);
    assert_eq!(bench.parked().await, []);
    running.end().await;
    assert_eq!(bench.settled().await, 6);
}

/// P2, P6: a successor waits although it would succeed. Red when `admit` does not ask whether the key is parked.
#[tokio::test(start_paused = true)]
async fn a_successor_does_not_overtake_its_parked_key() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish(&step("bad", 1)).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(1).await;
    shop.well.store(true, Ordering::Relaxed);
    bench.bus.publish(&step("bad", 2)).await.unwrap();
    running.ended(2).await;
    assert!(shop.seen.of("bad").is_empty());
    bench.release(&bench.parked().await[0]).await;
    until(|| shop.seen.of("bad").len() == 2).await;
    assert_eq!(shop.seen.of("bad"), [1, 2]);
    running.end().await;
}

/// P2, R3. A broker that was just started may say that a topic does not exist. Red when that is taken for nothing parked: all
/// parked keys are overtaken by their successors.
#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_know_what_is_parked_is_waited_for() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish(&step("bad", 1)).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(1).await;
    running.end().await;
    shop.well.store(true, Ordering::Relaxed);
    bench.bus.publish_all(&[step("bad", 2), step("good", 1)]).await.unwrap();
    bench.log.faults().forget_topics(".parked");
    let running = bench.run(subscription(), shop.clone());
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(shop.seen.all(), []);
    let status = running.status();
    let waiting = status.partitions.values().find_map(|partition| partition.waiting.clone()).unwrap();
    assert!(waiting.contains("the log knows 0 partitions of steps.steps.parked"), "{waiting}");
    bench.log.faults().heal_topics();
    running.ended(2).await;
    assert_eq!(shop.seen.all(), [("good".to_owned(), 1)]);
    assert_eq!(bench.parked().await[0].records, 2);
    running.end().await;
}

/// P2, P3: a parked key is parked for the next owner too. Red when nothing is rebuilt at assignment.
#[tokio::test(start_paused = true)]
async fn a_parked_key_is_parked_after_a_restart_and_a_release_goes_on() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish_all(&[step("bad", 1), step("bad", 2)]).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(2).await;
    running.end().await;
    bench.bus.publish(&step("bad", 3)).await.unwrap();
    // Asked for while nobody runs.
    shop.well.store(true, Ordering::Relaxed);
    let key = bench.parked().await.pop().unwrap();
    bench.release(&key).await;
    let running = bench.run(subscription(), shop.clone());
    until(|| shop.seen.of("bad").len() == 3).await;
    assert_eq!(shop.seen.of("bad"), [1, 2, 3]);
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    running.end().await;
    // The release is over: it does not release what is parked later.
    shop.well.store(false, Ordering::Relaxed);
    bench.bus.publish(&step("bad", 4)).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(1).await;
    shop.well.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.end().await;
    assert_eq!((shop.seen.of("bad"), bench.parked().await.len()), (vec![1, 2, 3], 1));
}

/// R3: the first that fails again ends the release. Red when `park` forgets to end it.
#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_release() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish_all(&[step("bad", 1), step("bad", 2)]).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(2).await;
    let before = bench.parked().await.pop().unwrap();
    bench.release(&before).await;
    until(|| shop.attempts.load(Ordering::Relaxed) == 2).await;
    shop.well.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = bench.parked().await.pop().unwrap();
    assert_eq!((after.records, after.offset, shop.seen.of("bad")), (2, 0, vec![]));
    // What nobody holds is released at once, and leaves nothing behind.
    release(&bench.bus, "steps", &after.partition, b"unknown").await.unwrap();
    bench.release(&after).await;
    until(|| shop.seen.of("bad").len() == 2).await;
    running.end().await;
}

/// P3, P6. Red when `on_stored` ends a copy that was refused, or `Aside::next` gives up on an outage.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_past_a_copy_that_was_not_stored() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.log.faults().fail_next_transactions(1_000, LogErrorKind::Unreachable);
    bench.bus.publish_all(&[step("bad", 1), step("good", 1), step("bad", 2)]).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.settled().await, 0);
    let status = running.status();
    let partition = status.partitions.values().next().unwrap();
    assert!(
        partition
            .waiting
            .as_deref()
            .unwrap()
            .starts_with("the parked copy of steps/0@0 cannot be stored now"),
        "{partition:?}"
    );
    assert!(partition.stall.is_some() && !status.ready());
    bench.log.faults().fail_next_transactions(0, LogErrorKind::Unreachable);
    running.ended(3).await;
    running.end().await;
    assert_eq!((bench.settled().await, bench.parked().await[0].records), (3, 2));
}

/// R3: an outage is not poison. Red when `on_attempted` sets a spent record aside without looking at the others.
#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_hold_at_most_parks_nothing() {
    async fn needs(event: Stepped, State(shop): State<Shop>) -> Handled {
        if !shop.well.load(Ordering::Relaxed) {
            return Err("the warehouse does not answer".into());
        }
        shop.seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(2).await;
    let shop = Shop::default();
    let events: Vec<_> = (1..=20).map(|number| step(&format!("k{}", number % 5), number)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let subscription = Subscription::builder("steps").on(needs).retry(Retry::exponential().attempts(3));
    let running = bench.run(subscription, shop.clone());
    tokio::time::sleep(Duration::from_secs(500)).await;
    let status = running.status();
    assert_eq!((status.ended, status.parked, status.ready()), (0, 0, false));
    assert!(status.partitions.values().any(|partition| {
        partition.waiting.as_deref().is_some_and(|waiting| waiting.ends_with("the warehouse does not answer"))
    }));
    shop.well.store(true, Ordering::Relaxed);
    running.ended(20).await;
    assert_eq!(running.status().parked, 0);
    running.end().await;
    // Longer than that, it is parked.
    shop.well.store(false, Ordering::Relaxed);
    bench.bus.publish(&step("k1", 21)).await.unwrap();
    let subscription = Subscription::builder("steps").on(needs).retry(Retry::exponential().attempts(3));
    let running = bench.run(subscription, shop.clone());
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(running.status().parked, 1);
    running.end().await;
}

/// R2: a delay beyond `hold_at_most` parks the key with a due time. Red when nobody watches due times.
#[tokio::test(start_paused = true)]
async fn a_long_retry_after_parks_the_key_until_it_is_due() {
    async fn later(delivery: Delivery<Stepped>, State(shop): State<Shop>) -> Handled {
        if delivery.event.number == 1 && shop.attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(RetryAfter::new(Duration::from_secs(3_600), "closed until noon").into());
        }
        shop.seen.note(&delivery.event);
        Ok(())
    }
    let bench = Bench::virtual_clock(1).await;
    let shop = Shop::default();
    bench.bus.publish_all(&[step("a", 1), step("a", 2), step("b", 7)]).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(later), shop.clone());
    running.ended(3).await;
    let key = bench.parked().await.pop().unwrap();
    assert_eq!((key.records, &*key.reason), (2, "closed until noon"));
    assert!(key.due.is_some());
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    assert!(shop.seen.of("a").is_empty());
    tokio::time::sleep(Duration::from_secs(110)).await;
    until(|| shop.seen.of("a").len() == 2).await;
    assert_eq!((shop.seen.of("a"), shop.seen.of("b")), (vec![1, 2], vec![7]));
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    running.end().await;
}

/// R3: what only waited goes on counting. Red when a release because of a due time begins anew: it is never spent.
#[tokio::test(start_paused = true)]
async fn a_record_that_always_asks_for_later_is_spent_at_last() {
    async fn later(event: Stepped, State(shop): State<Shop>) -> Handled {
        if event.key == "a" {
            shop.attempts.fetch_add(1, Ordering::Relaxed);
            return Err(RetryAfter::new(Duration::from_secs(900), "later").into());
        }
        Ok(())
    }
    let bench = Bench::virtual_clock(1).await;
    let shop = Shop::default();
    bench.bus.publish_all(&[step("a", 1), step("b", 1)]).await.unwrap();
    let retry = Retry::exponential().attempts(3);
    let running = bench.run(Subscription::builder("steps").on(later).retry(retry), shop.clone());
    running.ended(2).await;
    tokio::time::sleep(Duration::from_secs(36_000)).await;
    // Three, and one more: nobody else of its handler has succeeded since, so it might be an outage.
    assert_eq!(shop.attempts.load(Ordering::Relaxed), 4);
    let key = bench.parked().await.pop().unwrap();
    assert_eq!((key.attempts, key.due), (4, None));
    running.end().await;
}

/// R2: a key that waits holds a quarter of the window at most, once others show that the handler works. Red when
/// `queue` does not look: the window fills and the others stop.
#[tokio::test(start_paused = true)]
async fn a_waiting_key_does_not_fill_the_window() {
    async fn slow(event: Stepped, State(shop): State<Shop>) -> Handled {
        if event.key == "hot" && !shop.well.load(Ordering::Relaxed) {
            return Err("try again".into());
        }
        shop.seen.note(&event);
        Ok(())
    }
    let bench = Bench::virtual_clock(1).await;
    let shop = Shop::default();
    let mut events = vec![step("hot", 0), step("ok", 0)];
    events.extend((1..100).map(|number| step("hot", number)));
    events.push(step("ok", 1));
    bench.bus.publish_all(&events).await.unwrap();
    let retry = Retry::exponential().attempts(1_000).initial(Duration::from_secs(5));
    let running = bench.run(Subscription::builder("steps").on(slow).window(40).retry(retry), shop.clone());
    until(|| shop.seen.of("ok").len() == 2).await;
    assert!(bench.parked().await[0].due.is_some());
    shop.well.store(true, Ordering::Relaxed);
    until(|| shop.seen.of("hot").len() == 100).await;
    assert_eq!(shop.seen.of("hot"), (0..100).collect::<Vec<_>>());
    running.end().await;
    assert_eq!(bench.parked().await, []);
}

/// P9: after a loss the new owner parks what the old one could not. `a_woken_member_parks_nothing` has the fence.
#[tokio::test(start_paused = true)]
async fn an_evicted_member_parks_nothing() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    let faults = bench.log.faults();
    faults.fail_next_transactions(1_000, LogErrorKind::Unreachable);
    bench.bus.publish(&step("bad", 1)).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    until(|| shop.attempts.load(Ordering::Relaxed) == 1).await;
    // The log takes transactions again, and by then the partition has a new owner.
    faults.lose("steps").unwrap();
    faults.fail_next_transactions(0, LogErrorKind::Unreachable);
    running.ended(1).await;
    running.end().await;
    let partition = PartitionId { topic: TopicName::new("steps.steps.parked").unwrap(), partition: 0 };
    assert_eq!(bench.log.end_offsets(&partition.topic).await.unwrap(), [1], "one copy, by the new owner");
}

/// P6, R3: a kill while a released record is handled must not lose it. Red when its end mark is written before it has
/// ended.
#[tokio::test(start_paused = true)]
async fn a_released_record_is_parked_until_it_was_handled() {
    async fn hangs(_: Stepped, State(shop): State<Shop>) -> Handled {
        if shop.attempts.fetch_add(1, Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
        Err(Terminal::new("not well").into())
    }
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    bench.bus.publish(&step("bad", 1)).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(hangs), shop.clone());
    running.ended(1).await;
    bench.release(&bench.parked().await[0]).await;
    until(|| shop.attempts.load(Ordering::Relaxed) == 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.parked().await.len(), 1);
    assert_eq!(running.end().await.unfinished, 1);
    assert_eq!(bench.parked().await.len(), 1);
}

/// P4, P9: a member that was evicted while it did not run parks nothing when it wakes. Red when copies are written
/// without the settlement.
#[tokio::test(start_paused = true)]
async fn a_woken_member_parks_nothing() {
    #[derive(Clone)]
    struct Hand {
        shop: Shop,
        /// Stops this program, and fails.
        stops: Option<MemoryLog>,
    }
    async fn handle(event: Stepped, State(hand): State<Hand>) -> Handled {
        if let Some(log) = hand.stops {
            log.faults().pause(&log);
            hand.shop.attempts.fetch_add(1, Ordering::Relaxed);
            return Err(Terminal::new("not well").into());
        }
        hand.shop.seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let log = bench.log.process();
    let bus = Bus::open(Arc::new(log.clone()), bench.bus.environment().clone()).await.unwrap();
    let other = Bench { log: log.clone(), bus };
    let shop = Shop::default();
    bench.bus.publish(&step("bad", 1)).await.unwrap();
    let subscription = || Subscription::builder("steps").on(handle);
    let stopped = other.run(subscription(), Hand { shop: shop.clone(), stops: Some(log.clone()) });
    until(|| shop.attempts.load(Ordering::Relaxed) == 1).await;
    let next = bench.run(subscription(), Hand { shop: shop.clone(), stops: None });
    bench.log.faults().expire(&log);
    next.ended(1).await;
    bench.log.faults().resume(&log);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((shop.seen.of("bad"), bench.parked().await), (vec![1], vec![]));
    stopped.end().await;
    next.end().await;
}

/// P6: 1,000 parked keys are released without an inversion.
#[tokio::test(start_paused = true)]
async fn a_thousand_parked_keys_are_released_in_order() {
    let bench = Bench::new(4).await;
    let shop = Shop::default();
    let mut events = Vec::new();
    for number in 1..=3 {
        events.extend((0..1_000).map(|key| step(&format!("bad{key}"), number)));
    }
    bench.bus.publish_all(&events).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    running.ended(3_000).await;
    let keys = bench.parked().await;
    assert_eq!((keys.len(), running.status().parked), (1_000, 3_000));
    shop.well.store(true, Ordering::Relaxed);
    for key in &keys {
        bench.release(key).await;
    }
    running.ended(6_000).await;
    for key in keys {
        assert_eq!(shop.seen.of(std::str::from_utf8(&key.key).unwrap()), [1, 2, 3]);
    }
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    running.end().await;
    assert_eq!(bench.parked().await, []);
}
