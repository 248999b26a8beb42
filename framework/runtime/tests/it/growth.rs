use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    Handled, State, Terminal, TopicName,
    log::{CommitLog, PartitionId, Settled, Start},
};
use aqueduct_runtime::{Subscription, parked, release};
use tokio::sync::Semaphore;

use crate::support::{Bench, Running, Seen, Stepped, step, until};

/// Each event needs a permit; those of keys that start with `bad` fail until all is well.
#[derive(Clone)]
struct Shop {
    gate: Arc<Semaphore>,
    seen: Seen,
    well: Arc<AtomicBool>,
}

impl Shop {
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), seen: Seen::default(), well: Arc::default() }
    }
}

async fn handle(event: Stepped, State(shop): State<Shop>) -> Handled {
    shop.gate.acquire().await?.forget();
    if event.key.starts_with("bad") && !shop.well.load(Ordering::Relaxed) {
        return Err(Terminal::new("not well").into());
    }
    shop.seen.note(&event);
    Ok(())
}

fn subscription() -> Subscription<Shop> {
    // A new group would begin at the end; added partitions begin where they begin.
    Subscription::builder("steps").on(handle).start(Start::Latest)
}

fn steps() -> TopicName {
    TopicName::new("steps").unwrap()
}

/// Keys of which the first goes to partition 0 of two, and both of them were in 0 before there were two.
fn moving() -> Vec<String> {
    let of = |key: &str| aqueduct_core::key::partition_of(key.as_bytes(), 2);
    let key = |wanted: i32| (0..).map(|number| format!("k{number}")).find(|key| of(key) == wanted).unwrap();
    vec![key(0), key(1)]
}

fn waiting(running: &Running) -> String {
    waiting_of(running, 1)
}

fn waiting_of(running: &Running, partition: i32) -> String {
    let id = PartitionId { topic: steps(), partition };
    running.status().partitions.get(&id).and_then(|status| status.waiting.clone()).unwrap_or_default()
}

/// P2, R2. Red when an added partition is begun at once: the second event of a key overtakes the first. And when it is begun
/// where a new group would: what came before it was noticed is skipped.
#[tokio::test(start_paused = true)]
async fn an_added_partition_waits_for_what_a_key_left_in_an_older_one() {
    let bench = Bench::new(1).await;
    let shop = Shop::new();
    bench.bus.publish(&step("before", 0)).await.unwrap();
    let running = bench.run(subscription(), shop.clone());
    until(|| running.status().partitions.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let keys = moving();
    bench.bus.publish_all(&[step(&keys[0], 1), step(&keys[1], 1)]).await.unwrap();
    bench.log.add_partitions(&steps(), 2).await.unwrap();
    until(|| waiting(&running) == "it was added to steps and has no record yet").await;
    bench.bus.publish(&step(&keys[1], 2)).await.unwrap();
    until(|| waiting(&running).starts_with("it was added to steps, and steps/0 is settled up to 1 of 3"))
        .await;
    // A kill of the process that waits changes nothing.
    running.end().await;
    let running = bench.run(subscription(), shop.clone());
    until(|| waiting(&running).starts_with("it was added to steps, and steps/0 is settled up to 1 of 3"))
        .await;
    // What is published later need not be waited for.
    shop.gate.add_permits(2);
    until(|| shop.seen.all().len() == 2).await;
    bench.bus.publish(&step(&keys[0], 2)).await.unwrap();
    until(|| waiting(&running).is_empty()).await;
    shop.gate.add_permits(2);
    until(|| shop.seen.all().len() == 4).await;
    assert_eq!((shop.seen.of(&keys[0]), shop.seen.of(&keys[1])), (vec![1, 2], vec![1, 2]));
    assert_eq!(shop.seen.of("before"), Vec::<u32>::new());
    running.end().await;
    assert_eq!(bench.settled().await, 4 + 1);
    // Once it has begun it waits no more.
    let running = bench.run(subscription(), shop.clone());
    bench.bus.publish_all(&[step(&keys[0], 3), step(&keys[1], 3)]).await.unwrap();
    shop.gate.add_permits(1);
    until(|| shop.seen.all().len() == 5).await;
    assert_eq!(waiting(&running), "");
    shop.gate.add_permits(1);
    until(|| shop.seen.all().len() == 6).await;
    running.end().await;
}

/// P2, R2. Red when only those partitions are waited for that were there at first.
#[tokio::test(start_paused = true)]
async fn a_topic_grows_again() {
    let bench = Bench::new(1).await;
    let shop = Shop::new();
    let running = bench.run(subscription(), shop.clone());
    until(|| running.status().partitions.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let of = |key: &str, count| aqueduct_core::key::partition_of(key.as_bytes(), count);
    let key =
        (0..).map(|number| format!("k{number}")).find(|key| (of(key, 2), of(key, 4)) == (1, 3)).unwrap();
    bench.log.add_partitions(&steps(), 2).await.unwrap();
    bench.bus.publish(&step(&key, 1)).await.unwrap();
    shop.gate.add_permits(1);
    until(|| shop.seen.of(&key) == [1]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.bus.publish(&step(&key, 2)).await.unwrap();
    bench.log.add_partitions(&steps(), 4).await.unwrap();
    bench.bus.publish(&step(&key, 3)).await.unwrap();
    until(|| {
        waiting_of(&running, 3).starts_with("it was added to steps, and steps/1 is settled up to 1 of 2")
    })
    .await;
    shop.gate.add_permits(2);
    until(|| shop.seen.of(&key) == [1, 2, 3]).await;
    running.end().await;
}

/// P2, R2, R3. Red when a parked key of an older partition is not looked for, or the topic of parked records does not grow.
#[tokio::test(start_paused = true)]
async fn an_added_partition_waits_for_parked_keys_and_parks_its_own() {
    let bench = Bench::new(1).await;
    let shop = Shop::new();
    shop.gate.add_permits(100);
    let running = bench.run(subscription(), shop.clone());
    until(|| running.status().partitions.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let of = |key: &str| aqueduct_core::key::partition_of(key.as_bytes(), 2);
    let bad = (0..).map(|number| format!("bad{number}")).find(|key| of(key) == 1).unwrap();
    bench.bus.publish(&step(&bad, 1)).await.unwrap();
    bench.log.add_partitions(&steps(), 2).await.unwrap();
    bench.bus.publish(&step(&bad, 2)).await.unwrap();
    let holds =
        format!("it was added to steps, and steps/0 holds the parked key {bad}, which may have moved");
    until(|| waiting(&running) == holds).await;
    // A broker that was just started knows nothing of it. Red when that is taken for nothing parked.
    bench.log.faults().forget_topics(".parked");
    until(|| waiting(&running).ends_with("the log does not know what is parked of it")).await;
    bench.log.faults().heal_topics();
    until(|| waiting(&running) == holds).await;
    shop.well.store(true, Ordering::Relaxed);
    let key = parked(&bench.bus, "steps", &steps()).await.unwrap().pop().unwrap();
    release(&bench.bus, "steps", &key.partition, &key.key).await.unwrap();
    until(|| shop.seen.of(&bad) == [1, 2]).await;
    shop.well.store(false, Ordering::Relaxed);
    bench.bus.publish(&step(&bad, 3)).await.unwrap();
    until(|| running.status().parked == 2).await;
    let key = parked(&bench.bus, "steps", &steps()).await.unwrap().pop().unwrap();
    assert_eq!(key.partition.partition, 1);
    running.end().await;
}

/// Who asks for it has no wait, and is told what that means.
#[tokio::test(start_paused = true)]
async fn unordered_growth_waits_for_nothing() {
    let bench = Bench::new(1).await;
    let shop = Shop::new();
    let running = bench.run(subscription().unordered_growth(), shop.clone());
    assert!(running.status().guarantee.contains("ordered by key (not where partitions are added)"));
    until(|| running.status().partitions.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let keys = moving();
    bench.bus.publish(&step(&keys[1], 1)).await.unwrap();
    bench.log.add_partitions(&steps(), 2).await.unwrap();
    bench.bus.publish(&step(&keys[1], 2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(waiting(&running), "");
    shop.gate.add_permits(2);
    until(|| shop.seen.all().len() == 2).await;
    running.end().await;
}

/// R2. Red when what was settled in a topic is taken for an offset of the next topic of its name.
#[tokio::test(start_paused = true)]
async fn a_topic_that_was_made_anew_stops_with_its_reason() {
    let bench = Bench::new(1).await;
    let shop = Shop::new();
    shop.gate.add_permits(10);
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let of_another = "aq1;topic=00000000-0000-0000-0000-00000000abcd;partitions=1";
    bench.settle_as("steps", 1, of_another).await;
    let running = bench.run(subscription(), shop.clone());
    let stopped = || running.status().partitions.into_values().find_map(|status| status.stopped);
    until(|| stopped().is_some_and(|why| why.starts_with("topic steps was deleted and made anew"))).await;
    assert_eq!(running.end().await.unfinished, 0);
    // Nothing of it was settled.
    let settled = bench.log.settled_offsets("steps", &steps()).await.unwrap().remove(0).unwrap();
    assert_eq!(settled, Settled { offset: 1, metadata: of_another.to_owned() });
    // What another tool settles says nothing of that, and is accepted.
    bench.settle_as("steps", 1, "").await;
    let running = bench.run(subscription(), shop.clone());
    bench.bus.publish(&step("a", 2)).await.unwrap();
    until(|| shop.seen.of("a") == [2]).await;
    running.end().await;
}
