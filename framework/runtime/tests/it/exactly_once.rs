use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    Event, Handled, LogErrorKind, State, Terminal, TopicName,
    log::{CommitLog, TopicSpec},
};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, Retry, Subscription, parked, release};
use tokio::sync::Semaphore;

use crate::support::{Bench, Echoed, Running, Stepped, step, until};

/// Echoes each step; those of keys that start with `slow` wait, and those of `bad` fail until all is well.
#[derive(Clone)]
struct Mirror {
    gate: Arc<Semaphore>,
    well: Arc<AtomicBool>,
}

impl Mirror {
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), well: Arc::default() }
    }
}

async fn echo(event: Stepped, State(mirror): State<Mirror>) -> Handled<Echoed> {
    if event.key.starts_with("slow") {
        mirror.gate.acquire().await?.forget();
    }
    if event.key.starts_with("bad") && !mirror.well.load(Ordering::Relaxed) {
        return Err(Terminal::new("not well").into());
    }
    Ok(Echoed { key: event.key, number: event.number })
}

fn subscription() -> Subscription<Mirror> {
    Subscription::builder("steps").on(echo).exactly_once()
}

impl Bench {
    async fn mirrored(events: &[Stepped]) -> Self {
        let bench = Self::new(1).await;
        bench.log.ensure_topic(TopicSpec::new(TopicName::new("echoes").unwrap())).await.unwrap();
        bench.bus.publish_all(events).await.unwrap();
        bench
    }

    /// The echoes, in the order of the log.
    async fn echoes(&self) -> Vec<(String, u32)> {
        let records = self.records(Echoed::INFO.topic).await;
        let echo = |value: &[u8]| serde_json::from_slice::<Echoed>(value).unwrap();
        let echoes = records.iter().map(|record| echo(record.value().unwrap()));
        echoes.map(|echo| (echo.key, echo.number)).collect()
    }
}

fn pairs(echoes: &[(&str, u32)]) -> Vec<(String, u32)> {
    echoes.iter().map(|(key, number)| ((*key).to_owned(), *number)).collect()
}

fn settled(running: &Running) -> i64 {
    running.status().partitions.values().map(|partition| partition.settled).sum()
}

/// P3, P4, R8. Red when returned events are published beside the transaction that settles (the second run repeats them), or
/// a transaction settles past a delivery that has not ended.
#[tokio::test(start_paused = true)]
async fn what_handlers_return_goes_with_the_settled_offset_and_in_order() {
    let events = [step("a", 1), step("slow", 1), step("a", 2), step("b", 1)];
    let bench = Bench::mirrored(&events).await;
    let mirror = Mirror::new();
    let running = bench.run(subscription(), mirror.clone());
    assert!(running.status().guarantee.contains("published events once (in a transaction"));
    running.ended(3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.echoes().await, pairs(&[("a", 1)]));
    assert_eq!((settled(&running), bench.settled().await), (1, 1));
    // The end of this process finds one delivery open, and what those behind it returned not stored.
    assert_eq!(running.end().await.unfinished, 3);
    assert_eq!(bench.echoes().await, pairs(&[("a", 1)]));
    mirror.gate.add_permits(1);
    let running = bench.run(subscription(), mirror.clone());
    until(|| settled(&running) == 4).await;
    assert_eq!(bench.echoes().await, pairs(&[("a", 1), ("slow", 1), ("a", 2), ("b", 1)]));
    running.end().await;
    assert_eq!(bench.settled().await, 4);
}

/// P9, R8: what handlers returned has the time of a last settle after theirs. Red when a partition is given back while its
/// last transaction is under way: the next owner repeats what it is for.
#[tokio::test(start_paused = true)]
async fn what_was_returned_is_stored_before_its_partition_is_given_back() {
    async fn echo(event: Stepped, State(handled): State<Arc<AtomicUsize>>) -> Handled<Echoed> {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(Echoed { key: event.key, number: event.number })
    }
    let bench = Bench::new(2).await;
    bench.log.ensure_topic(TopicSpec::new(TopicName::new("echoes").unwrap())).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let retry = Retry::exponential().initial(Duration::from_millis(50)).cap(Duration::from_millis(100));
    let subscription = || Subscription::builder("steps").on(echo).exactly_once().retry(retry);
    let first = bench.run(subscription(), Arc::clone(&handled));
    until(|| first.status().partitions.len() == 2).await;
    bench.log.faults().fail_topics("echoes", LogErrorKind::Unreachable);
    bench.bus.publish_all(&["a", "b", "c", "d", "e", "f"].map(|key| step(key, 1))).await.unwrap();
    first.ended(6).await;
    let second = bench.run(subscription(), Arc::clone(&handled));
    // The handlers' time is over after a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((settled(&first), second.status().partitions.len()), (0, 0));
    bench.log.faults().heal_topics();
    until(|| second.status().partitions.len() == 1 && settled(&first) + settled(&second) == 6).await;
    assert_eq!((handled.load(Ordering::Relaxed), bench.echoes().await.len()), (6, 6));
    assert_eq!(first.end().await.unfinished + second.end().await.unfinished, 0);
}

/// P9. Red when what handlers returned, and is not stored when the time is over, is not reported.
#[tokio::test(start_paused = true)]
async fn what_was_returned_and_is_not_stored_is_reported() {
    let bench = Bench::mirrored(&[step("a", 1), step("b", 1)]).await;
    bench.log.faults().fail_topics("echoes", LogErrorKind::Unreachable);
    let running = bench.run(subscription(), Mirror::new());
    running.ended(2).await;
    let began = tokio::time::Instant::now();
    assert_eq!(running.end().await.unfinished, 2);
    assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
}

/// P4, R8. Red when a batch is written again without a look at what is settled.
#[tokio::test(start_paused = true)]
async fn a_transaction_whose_answer_is_lost_is_not_written_again() {
    let bench = Bench::mirrored(&[step("a", 1), step("a", 2)]).await;
    for kind in [LogErrorKind::Unreachable, LogErrorKind::UnknownOutcome, LogErrorKind::Fenced] {
        bench.log.faults().fail_next_transactions(1, kind);
        bench.bus.publish(&step("a", 3)).await.unwrap();
        let before = bench.settled().await;
        let running = bench.run(subscription(), Mirror::new());
        until(|| settled(&running) > before).await;
        running.end().await;
    }
    let once = pairs(&[("a", 1), ("a", 2), ("a", 3), ("a", 3), ("a", 3)]);
    assert_eq!(bench.echoes().await, once, "what failed was not stored, and is written again");
    bench.log.faults().lose_next_transaction_answers(2);
    bench.bus.publish(&step("a", 4)).await.unwrap();
    let running = bench.run(subscription(), Mirror::new());
    until(|| settled(&running) == 6).await;
    running.end().await;
    assert_eq!(bench.echoes().await[5..], pairs(&[("a", 4)]));
}

/// P2, P4, R3, R8. Red when what a released record returns goes apart from its end mark, is written again after a lost
/// answer (the settled offset does not move with it), or overtakes what an earlier record of its key returned.
#[tokio::test(start_paused = true)]
async fn a_released_record_returns_once_and_behind_those_before_it() {
    let mirror = Mirror::new();
    mirror.well.store(true, Ordering::Relaxed);
    let bench = Bench::mirrored(&[step("slow", 1), step("bad", 1)]).await;
    let running = bench.run(subscription(), mirror.clone());
    running.ended(1).await;
    // `bad` 1 has ended and waits for `slow`; its successor is parked and released.
    mirror.well.store(false, Ordering::Relaxed);
    bench.bus.publish(&step("bad", 2)).await.unwrap();
    running.ended(2).await;
    mirror.well.store(true, Ordering::Relaxed);
    let topic = TopicName::new("steps").unwrap();
    let key = parked(&bench.bus, "steps", &topic).await.unwrap().pop().unwrap();
    release(&bench.bus, "steps", &key.partition, &key.key).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.echoes().await, []);
    bench.log.faults().lose_next_transaction_answers(2);
    mirror.gate.add_permits(1);
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    assert_eq!(bench.echoes().await, pairs(&[("slow", 1), ("bad", 1), ("bad", 2)]));
    assert_eq!(parked(&bench.bus, "steps", &topic).await.unwrap(), []);
    // Where nothing else moves the settled offset, an answer that is lost.
    mirror.well.store(false, Ordering::Relaxed);
    bench.bus.publish(&step("bad", 3)).await.unwrap();
    until(|| settled(&running) == 4).await;
    mirror.well.store(true, Ordering::Relaxed);
    bench.log.faults().lose_next_transaction_answers(1);
    release(&bench.bus, "steps", &key.partition, &key.key).await.unwrap();
    until(|| running.status().partitions.values().all(|partition| partition.parked == 0)).await;
    assert_eq!(bench.echoes().await[3..], pairs(&[("bad", 3)]));
    running.end().await;
}

/// P3, P4. Red when what ends after a refusal is written, and settles past what was refused.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_not_settled_past() {
    let bench = Bench::mirrored(&[step("a", 1), step("slow", 1)]).await;
    let mirror = Mirror::new();
    bench.log.faults().fail_topics("echoes", LogErrorKind::Storage);
    let running = bench.run(subscription(), mirror.clone());
    until(|| running.status().partitions.into_values().any(|partition| partition.stopped.is_some())).await;
    bench.log.faults().heal_topics();
    mirror.gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((bench.echoes().await, bench.settled().await), (vec![], 0));
    running.end().await;
    mirror.gate.add_permits(1);
    let running = bench.run(subscription(), mirror.clone());
    until(|| settled(&running) == 2).await;
    running.end().await;
    assert_eq!(bench.echoes().await, pairs(&[("a", 1), ("slow", 1)]));
}

/// P10. Red when the partition stops for a topic that takes nothing, or says nothing of it.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_other_topic_is_waited_for_and_named() {
    let bench = Bench::mirrored(&[step("a", 1)]).await;
    bench.log.faults().fail_topics("echoes", LogErrorKind::Unreachable);
    let running = bench.run(subscription(), Mirror::new());
    let waiting = || {
        running.status().partitions.into_values().find_map(|partition| partition.waiting).unwrap_or_default()
    };
    until(|| waiting().starts_with("what handlers returned below offset 1 (1 events) cannot be stored now"))
        .await;
    assert_eq!(bench.settled().await, 0);
    bench.log.faults().heal_topics();
    until(|| settled(&running) == 1).await;
    assert_eq!((bench.echoes().await.len(), waiting()), (1, String::new()));
    running.end().await;
}

/// R7. Red when a transaction with returned events carries no proof of the generation: the woken member writes its own.
#[tokio::test(start_paused = true)]
async fn a_woken_zombie_writes_nothing() {
    let bench = Bench::mirrored(&[step("a", 1), step("slow", 1)]).await;
    let sleeper: MemoryLog = bench.log.process();
    let bus = Bus::open(Arc::new(sleeper.clone()), bench.bus.environment().clone()).await.unwrap();
    let mirror = Mirror::new();
    let zombie = Bench { log: sleeper.clone(), bus }.run(subscription(), mirror.clone());
    zombie.ended(1).await;
    until(|| settled(&zombie) == 1).await;
    bench.log.faults().pause(&sleeper);
    mirror.gate.add_permits(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.log.faults().expire(&sleeper);
    let running = bench.run(subscription(), mirror.clone());
    until(|| settled(&running) == 2).await;
    bench.log.faults().resume(&sleeper);
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.end().await;
    assert_eq!(bench.echoes().await, pairs(&[("a", 1), ("slow", 1)]));
    zombie.stop.cancel();
    drop(zombie.task.await);
}

/// What is settled without returned events is stored too, within its interval and at the end.
#[tokio::test(start_paused = true)]
async fn what_returns_nothing_is_settled_too() {
    async fn nothing(_: Stepped) -> Handled<Option<Echoed>> {
        Ok(None)
    }
    let bench = Bench::mirrored(&[step("a", 1)]).await;
    let subscription = || Subscription::builder("steps").on(nothing).exactly_once();
    let running = bench.run(subscription(), ());
    until(|| settled(&running) == 1).await;
    // That it was begun is kept before anything ends: partitions that are added later are known by it.
    let other = Bench::mirrored(&[]).await;
    other.log.ensure_topic(TopicSpec::new(TopicName::new("steps").unwrap())).await.unwrap();
    let begun = other.run(subscription(), ());
    until(|| begun.status().partitions.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = other.log.settled_offsets("steps", &TopicName::new("steps").unwrap()).await.unwrap().remove(0);
    assert!(kept.is_some_and(|kept| kept.offset == 0 && kept.metadata.ends_with(";partitions=1")));
    begun.end().await;
    bench.bus.publish(&step("a", 2)).await.unwrap();
    running.ended(2).await;
    running.end().await;
    assert_eq!(bench.settled().await, 2);
}
