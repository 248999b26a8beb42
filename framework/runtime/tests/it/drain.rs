use std::{sync::Arc, time::Duration};

use aqueduct_core::{Handled, LogErrorKind, State};
use aqueduct_runtime::Subscription;
use tokio::sync::Semaphore;

use crate::support::{Bench, Seen, Stepped, step, until};

/// A handler that needs a permit for each event, so that a test decides when deliveries end.
#[derive(Clone)]
struct Turnstile(Arc<Semaphore>, Seen);

impl Turnstile {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)), Seen::default())
    }
}

async fn pass(event: Stepped, State(Turnstile(permits, seen)): State<Turnstile>) -> Handled {
    permits.acquire().await?.forget();
    seen.note(&event);
    Ok(())
}

/// P9. Red when `run` returns at `stop` without waiting for what runs.
#[tokio::test(start_paused = true)]
async fn what_runs_at_shutdown_ends_and_is_settled() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    bench.bus.publish_all(&["a", "b", "a", "c"].map(|key| step(key, 1))).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass), turnstile.clone());
    until(|| {
        running.status().partitions.values().any(|partition| partition.settled == 0)
            && running.status().joined
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    turnstile.0.add_permits(10);
    assert_eq!(running.end().await.unfinished, 0);
    // The second event of `a` waited in its lane: it was not begun, so it comes again.
    assert_eq!(turnstile.1.all().len(), 3);
    assert_eq!(bench.settled().await, 2);
}

/// P9. Red when the drain has no deadline.
#[tokio::test(start_paused = true)]
async fn what_does_not_end_within_the_deadline_is_reported_and_not_settled() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    bench.bus.publish_all(&["a", "b"].map(|key| step(key, 1))).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass), turnstile.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running.end().await.unfinished, 2);
    assert_eq!((bench.settled().await, turnstile.1.all().len()), (0, 0));
}

/// P2, P9: two members share the partitions; nothing is handled twice, and keys keep their order over the hand-over.
/// Red when `revoked` is answered before the settle.
#[tokio::test(start_paused = true)]
async fn a_second_member_takes_partitions_over_without_repeats() {
    async fn note(event: Stepped, State(seen): State<Seen>) -> Handled {
        tokio::time::sleep(Duration::from_millis(3)).await;
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(4).await;
    let seen = Seen::default();
    let publish = |round: u32| {
        let events: Vec<_> = (0..200).map(|n| step(&format!("k{}", n % 20), round * 10 + n / 20)).collect();
        bench.bus.publish_all(&events)
    };
    publish(0).await.unwrap();
    let first = bench.run(Subscription::builder("steps").on(note), seen.clone());
    first.ended(20).await;
    let second = bench.run(Subscription::builder("steps").on(note), seen.clone());
    publish(1).await.unwrap();
    until(|| first.status().partitions.len() == 2 && second.status().partitions.len() == 2).await;
    publish(2).await.unwrap();
    until(|| first.status().ended + second.status().ended >= 600).await;
    first.end().await;
    until(|| second.status().partitions.len() == 4).await;
    publish(3).await.unwrap();
    until(|| seen.all().len() >= 800).await;
    second.end().await;
    for key in 0..20 {
        assert_eq!(seen.of(&format!("k{key}")), (0..40).collect::<Vec<_>>(), "k{key}");
    }
    assert_eq!(bench.settled().await, 800);
}

/// P9: a lost partition is fenced at once. Red when `Signal::Lost` lets its handlers run on to their settle.
#[tokio::test(start_paused = true)]
async fn a_lost_partition_is_not_settled_by_its_old_assignment() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    bench.bus.publish_all(&["a", "b"].map(|key| step(key, 1))).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass), turnstile.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.log.faults().lose("steps").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Both deliveries were cancelled and begun again: two permits let exactly the new ones through.
    turnstile.0.add_permits(2);
    running.ended(2).await;
    running.end().await;
    assert_eq!((turnstile.1.all().len(), bench.settled().await), (2, 2));
}

/// P3. Red when a failed settle is taken as stored.
#[tokio::test(start_paused = true)]
async fn a_refused_settle_is_tried_again() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    turnstile.0.add_permits(10);
    bench.log.faults().fail_next_settles(3, LogErrorKind::Unreachable);
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass), turnstile);
    running.ended(1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.settled().await, 1);
    running.end().await;
}

/// P9: what has ended is settled when its partition is given up. Red when a last settle that meets a transaction of its
/// partition is not tried again.
#[tokio::test(start_paused = true)]
async fn a_last_settle_is_tried_until_it_is_stored() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass), turnstile.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.log.faults().fail_next_settles(3, LogErrorKind::Held);
    running.stop.cancel();
    turnstile.0.add_permits(1);
    assert_eq!(running.end().await.unfinished, 0);
    assert_eq!((turnstile.1.all().len(), bench.settled().await), (1, 1));
}

/// P9: stop taking. Red when a delivery that waits for its place begins while the partition drains.
#[tokio::test(start_paused = true)]
async fn what_has_not_begun_does_not_begin_while_draining() {
    let bench = Bench::new(1).await;
    let turnstile = Turnstile::new();
    bench.bus.publish_all(&["a", "b", "c"].map(|key| step(key, 1))).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(pass).concurrency(1), turnstile.clone());
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    turnstile.0.add_permits(10);
    assert_eq!(running.end().await.unfinished, 0);
    assert_eq!((turnstile.1.all().len(), bench.settled().await), (1, 1));
}

/// P9, P10. Red when a partition that stops waits for its other keys without hearing of a drain, or says that it
/// stopped only after them.
#[tokio::test(start_paused = true)]
async fn a_stopped_partition_says_so_at_once_and_drains() {
    async fn handle(event: Stepped) -> Handled {
        match event.key.as_str() {
            "hangs" => std::future::pending().await,
            _ => Err(aqueduct_core::Terminal::new("no").into()),
        }
    }
    let bench = Bench::new(1).await;
    bench.bus.publish_all(&["hangs", "fails"].map(|key| step(key, 1))).await.unwrap();
    let subscription = Subscription::builder("steps").on(handle).then(aqueduct_runtime::OnFailure::Stop);
    let running = bench.run(subscription, ());
    until(|| running.status().partitions.values().any(|partition| partition.stopped.is_some())).await;
    assert!(!running.status().ready());
    tokio::time::timeout(Duration::from_secs(6), running.end()).await.unwrap();
    assert_eq!(bench.settled().await, 0);
}

/// P10: without partitions a member is ready too. Red when only an assignment counts as having joined.
#[tokio::test(start_paused = true)]
async fn a_member_without_partitions_is_ready() {
    let bench = Bench::new(1).await;
    let members = [(); 2].map(|()| bench.run(Subscription::builder("steps").on(pass), Turnstile::new()));
    until(|| members.iter().all(|member| member.status().ready())).await;
    let held: usize = members.iter().map(|member| member.status().partitions.len()).sum();
    assert_eq!(held, 1);
    for member in members {
        member.end().await;
    }
}

/// P3. Red when a start at the end is not kept before the first delivery: a kill then chooses a later one.
#[tokio::test(start_paused = true)]
async fn where_a_new_group_starts_is_kept_before_its_first_delivery() {
    let bench = Bench::new(1).await;
    bench.bus.publish(&step("old", 1)).await.unwrap();
    let turnstile = Turnstile::new();
    let latest = || Subscription::builder("steps").on(pass).start(aqueduct_core::log::Start::Latest);
    bench.log.faults().fail_next_settles(3, LogErrorKind::Unreachable);
    let first = bench.run(latest(), turnstile.clone());
    until(|| first.status().partitions.len() == 1).await;
    bench.bus.publish(&step("new", 1)).await.unwrap();
    until(|| first.status().partitions.values().any(|partition| partition.in_flight == 1)).await;
    // The process dies with the delivery in flight.
    first.task.abort();
    bench.log.faults().lose("steps").unwrap();
    turnstile.0.add_permits(10);
    let second = bench.run(latest(), turnstile.clone());
    second.ended(1).await;
    second.end().await;
    assert_eq!(turnstile.1.all(), [("new".to_owned(), 1)]);
}
