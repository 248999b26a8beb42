use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    Delivery, Event, Handled, HandlerError, Headers, LogErrorKind, NewRecord, RetryAfter, State, Terminal,
    Timestamp, TopicName,
    log::{CommitLog, PartitionId, Start, TopicSpec},
};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, Replay, ReplayError, Retry, Subscription, SubscriptionError, Until, skip};

use crate::support::{Bench, Echoed, Seen, Stepped, plain, step};

/// Echoes what it saw.
async fn echo(event: Stepped, State(seen): State<Seen>) -> Handled<Echoed> {
    seen.note(&event);
    Ok(Echoed { key: event.key, number: event.number })
}

/// As [`echo`], after a while.
async fn echo_later(event: Stepped, State(seen): State<Seen>) -> Handled<Echoed> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    echo(event, State(seen)).await
}

async fn note(event: Stepped, State(seen): State<Seen>) -> Handled {
    seen.note(&event);
    Ok(())
}

impl Bench {
    /// The number, and the id, of each echo in a topic.
    async fn echoed(&self, topic: &str) -> Vec<(u32, Vec<u8>)> {
        let records = self.records(topic).await;
        let id = |record: &aqueduct_core::Record| {
            let mut id = Vec::new();
            record.visit_headers(&mut |header| {
                if header.name == b"ce_id" {
                    id = header.value.unwrap_or_default().to_vec();
                }
            });
            id
        };
        let number = |value: &[u8]| serde_json::from_slice::<Echoed>(value).unwrap().number;
        records.iter().map(|record| (number(record.value().unwrap()), id(record))).collect()
    }
}

/// P7. Red when a replay joins a group, publishes what its handlers return though nobody said so, or goes on into what is
/// published while it runs.
#[tokio::test(start_paused = true)]
async fn history_is_handled_again_and_nothing_else_moves() {
    let bench = Bench::new(4).await;
    let events: Vec<_> = (0..200).map(|number| step(&format!("k{}", number % 20), number / 20)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let live = bench.run(Subscription::builder("steps").on(echo), Seen::default());
    live.ended(200).await;
    live.end().await;
    assert_eq!((bench.settled().await, bench.echoed("echoes").await.len()), (200, 200));
    let (seen, bus) = (Seen::default(), bench.bus.clone());
    let handle = move |delivery: Delivery<Stepped>, State(seen): State<Seen>| {
        let bus = bus.clone();
        async move {
            assert!(delivery.replayed);
            // What comes meanwhile is not history.
            bus.publish(&step("new", 1)).await?;
            seen.note(&delivery.event);
            Ok::<_, HandlerError>(Echoed { key: delivery.event.key, number: 0 })
        }
    };
    let replayed = Replay::builder("again").on(handle).run(&bench.bus, seen.clone()).await.unwrap();
    assert_eq!((replayed.ended, seen.all().len()), (200, 200));
    let ranges: i64 = replayed.ranges.values().map(|range| range.end - range.start).sum();
    assert_eq!((ranges, replayed.ranges.len()), (200, 4));
    for key in 0..20 {
        assert_eq!(seen.of(&format!("k{key}")), (0..10).collect::<Vec<_>>(), "k{key}");
    }
    // In line, and after a while.
    let seen = Seen::default();
    Replay::builder("later").on(echo_later).run(&bench.bus, seen.clone()).await.unwrap();
    assert_eq!((seen.all().len(), seen.of("new").len()), (400, 200));
    Replay::builder("in-line").on(echo).run(&bench.bus, Seen::default()).await.unwrap();
    assert_eq!((bench.settled().await, bench.echoed("echoes").await.len()), (200, 200));
    let topic = TopicName::new("steps").unwrap();
    for group in ["again", "later", "in-line"] {
        assert!(bench.log.settled_offsets(group, &topic).await.unwrap().iter().all(Option::is_none));
    }
}

/// P4, P7. Red when a replay's events have the ids of the live group's, or go to their own topic where another was named.
#[tokio::test(start_paused = true)]
async fn what_handlers_return_is_emitted_or_redirected_where_that_is_said() {
    let bench = Bench::new(1).await;
    bench.bus.publish_all(&[step("a", 1), step("a", 2)]).await.unwrap();
    let live = bench.run(Subscription::builder("steps").on(echo), Seen::default());
    live.ended(2).await;
    live.end().await;
    let emit = || Replay::builder("again").on(echo).emit();
    emit().run(&bench.bus, Seen::default()).await.unwrap();
    emit().run(&bench.bus, Seen::default()).await.unwrap();
    let echoed = bench.echoed("echoes").await;
    assert_eq!(echoed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 1, 2, 1, 2]);
    // A replay's are the same each time, and others than the live group's.
    assert_eq!(echoed[2..4], echoed[4..6]);
    assert!(echoed[0].1 != echoed[2].1 && !echoed[0].1.is_empty());
    let elsewhere = TopicName::new("elsewhere").unwrap();
    let redirected = Replay::builder("again").on(echo_later).redirect(elsewhere);
    redirected.run(&bench.bus, Seen::default()).await.unwrap();
    assert_eq!((bench.echoed("elsewhere").await.len(), bench.echoed("echoes").await.len()), (2, 6));
}

/// P7. Red when the range is not looked at.
#[tokio::test(start_paused = true)]
async fn a_range_of_time_is_replayed() {
    let bench = Bench::virtual_clock(2).await;
    let mut times = Vec::new();
    for number in 0..6 {
        times.push(bench.bus.environment().now());
        bench.bus.publish_all(&["a", "b", "c"].map(|key| step(key, number))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let replay = |from: Start, until: Until| {
        let (seen, bus) = (Seen::default(), bench.bus.clone());
        async move {
            let replay = Replay::builder("some").on(note).from(from).until(until);
            let ended = replay.run(&bus, seen.clone()).await.unwrap().ended;
            assert_eq!(usize::try_from(ended).unwrap(), seen.all().len());
            ["a", "b", "c"].map(|key| seen.of(key))
        }
    };
    let all = |numbers: std::ops::Range<u32>| [(); 3].map(|()| numbers.clone().collect::<Vec<_>>());
    assert_eq!(replay(Start::Time(times[2]), Until::Time(times[4])).await, all(2..4));
    assert_eq!(replay(Start::Time(times[4]), Until::End).await, all(4..6));
    assert_eq!(replay(Start::Earliest, Until::Time(times[1])).await, all(0..1));
    // Nothing at all: before, behind, and the wrong way round.
    assert_eq!(replay(Start::Earliest, Until::Time(Timestamp::from_millis(0))).await, all(0..0));
    assert_eq!(replay(Start::Latest, Until::End).await, all(0..0));
    assert_eq!(replay(Start::Time(times[4]), Until::Time(times[2])).await, all(0..0));
}

/// P2, P6. Red when what fails for good is passed over, when what was kept is not read, or more is kept than has ended.
#[tokio::test(start_paused = true)]
async fn a_failure_ends_it_and_it_goes_on_from_its_checkpoint() {
    #[derive(Clone)]
    struct Fails(Arc<AtomicBool>, Seen);
    async fn handle(event: Stepped, State(Fails(fails, seen)): State<Fails>) -> Handled {
        if event.number == 150 && fails.load(Ordering::Relaxed) {
            // Those behind it end first.
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(Terminal::new("the disk is full").into());
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let events: Vec<_> = (0..300).map(|number| step(&format!("k{}", number % 50), number)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let (fails, first) = (Arc::new(AtomicBool::new(true)), Seen::default());
    let replay = || Replay::builder("slow-build").on(handle).checkpoint();
    let stopped = replay().run(&bench.bus, Fails(Arc::clone(&fails), first.clone())).await.unwrap_err();
    let ReplayError::Stopped { partition, reason, .. } = &stopped else { panic!("{stopped:?}") };
    assert_eq!(partition.to_string(), "steps/0");
    assert!(reason.contains("steps/0@150 failed after 1 attempts: the disk is full"), "{reason}");
    fails.store(false, Ordering::Relaxed);
    let second = Seen::default();
    let replayed = replay().run(&bench.bus, Fails(Arc::clone(&fails), second.clone())).await.unwrap();
    assert_eq!(second.all().first(), Some(&("k0".to_owned(), 150)), "not before it, and not behind it");
    assert_eq!((replayed.ended, replayed.ranges.values().next()), (150, Some(&(150..300))));
    let mut all = [first.all(), second.all()].concat();
    all.sort_by_key(|(_, number)| *number);
    all.dedup();
    assert_eq!(all.len(), 300);
    // What has come since, and no more.
    assert_eq!(replay().run(&bench.bus, Fails(Arc::clone(&fails), Seen::default())).await.unwrap().ended, 0);
    bench.bus.publish(&step("k0", 300)).await.unwrap();
    assert_eq!(replay().run(&bench.bus, Fails(Arc::clone(&fails), Seen::default())).await.unwrap().ended, 1);
    // What ends it is passed over where that is said.
    fails.store(true, Ordering::Relaxed);
    let third = Seen::default();
    let except = Replay::builder("except").on(handle).except(partition.clone(), 150);
    except.run(&bench.bus, Fails(Arc::clone(&fails), third.clone())).await.unwrap();
    assert_eq!((third.all().len(), third.all().iter().any(|(_, number)| *number == 150)), (300, false));
    fails.store(false, Ordering::Relaxed);
    // Another name has another cursor.
    let other = Replay::builder("other").on(handle).checkpoint();
    assert_eq!(other.run(&bench.bus, Fails(fails, Seen::default())).await.unwrap().ended, 301);
}

/// P10. Red when a partition that has come to the end of its range is taken for one whose client is dead: the replay begins
/// anew; or when a handler that fails is waited for as in an outage.
#[tokio::test(start_paused = true)]
async fn one_slow_record_holds_no_other_partition_up_and_begins_nothing_anew() {
    async fn handle(event: Stepped, State(seen): State<Seen>) -> Handled {
        seen.note(&event);
        if event.key == "slow" {
            tokio::time::sleep(Duration::from_secs(120)).await;
        }
        Ok(())
    }
    let bench = Bench::new(4).await;
    bench.bus.publish_all(&["slow", "a", "b", "c", "d"].map(|key| step(key, 1))).await.unwrap();
    let (bus, seen) = (bench.bus.clone(), Seen::default());
    let handled = seen.clone();
    let replay =
        tokio::spawn(async move { Replay::builder("again").on(handle).run(&bus, handled).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Every partition goes on behind its range.
    let more: Vec<_> = (0..40).map(|key| step(&format!("k{key}"), 2)).collect();
    bench.bus.publish_all(&more).await.unwrap();
    assert_eq!((replay.await.unwrap().ended, seen.all().len()), (5, 5));
    let attempts = Arc::new(AtomicUsize::new(0));
    let fail = move |_: Stepped, State(attempts): State<Arc<AtomicUsize>>| async move {
        attempts.fetch_add(1, Ordering::Relaxed);
        Err::<(), HandlerError>(RetryAfter::new(Duration::from_millis(1), "never").into())
    };
    let failing = Replay::builder("fails").on(fail).concurrency(1).retry(Retry::exponential().attempts(3));
    let before = tokio::time::Instant::now();
    let stopped = failing.run(&bench.bus, Arc::clone(&attempts)).await.unwrap_err();
    assert!(
        matches!(&stopped, ReplayError::Stopped { reason, .. } if reason.contains("3 attempts")),
        "{stopped}"
    );
    assert!(before.elapsed() < Duration::from_secs(10));
}

/// P6, P10. Red when what an operator had passed over ends it again.
#[tokio::test(start_paused = true)]
async fn history_that_can_never_be_read_is_passed_by_asking() {
    let bench = Bench::new(1).await;
    let events: Vec<_> = (0..10).map(|number| step("a", number)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let partition = PartitionId { topic: TopicName::new("steps").unwrap(), partition: 0 };
    bench.log.faults().damage(&partition, 3..6).unwrap();
    let seen = Seen::default();
    let run = || Replay::builder("again").on(note).run(&bench.bus, seen.clone());
    let stopped = run().await.unwrap_err();
    assert!(
        matches!(&stopped, ReplayError::Stopped { reason, .. } if reason.contains("offsets 3 to before 6 can never be read")),
        "{stopped}"
    );
    skip(&bench.bus, "again", &partition, 3..6).await.unwrap();
    assert_eq!(run().await.unwrap().ended, 7);
    assert_eq!(seen.of("a"), [0, 1, 2, 0, 1, 2, 6, 7, 8, 9]);
}

/// P10. Red when the log is over and the replay waits, or what was kept is beyond where the log ends and all seems replayed.
#[tokio::test(start_paused = true)]
async fn it_ends_where_nothing_more_can_come() {
    let bench = Bench::new(1).await;
    bench.bus.publish_all(&[step("a", 1), step("a", 2)]).await.unwrap();
    let kept = |name: &str, value: serde_json::Value| NewRecord {
        topic: TopicName::new(&format!("{name}.replay")).unwrap(),
        key: Some("steps/0".into()),
        value: Some(value.to_string().into()),
        ..plain(None, None, Headers::default())
    };
    let topic_id = bench.log.describe_topic(&TopicName::new("steps").unwrap()).await.unwrap().unwrap().id;
    let message = |format: u8, topic_id: uuid::Uuid, settled: i64| serde_json::json!({"format": format, "topic": "steps", "topic_id": topic_id, "partition": 0, "settled": settled});
    for (name, value, said) in [
        ("back", message(1, topic_id, 3), "had come to 3 in steps/0, which ends at 2"),
        ("anew", message(1, uuid::Uuid::nil(), 1), "topic steps was deleted and made anew"),
        ("newer", serde_json::json!({"format": 2, "at": 1}), "is of format 2, newer than 1"),
    ] {
        let mut spec = TopicSpec::new(TopicName::new(&format!("{name}.replay")).unwrap());
        spec.partitions = Some(1);
        bench.log.ensure_topic(spec).await.unwrap();
        bench.append(kept(name, value)).await;
        let replay = Replay::builder(name).on(note).checkpoint();
        let refused = replay.run(&bench.bus, Seen::default()).await.unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    }
    async fn never(_: Stepped) -> Handled {
        std::future::pending().await
    }
    let bus = bench.bus.clone();
    let waiting =
        tokio::spawn(async move { Replay::builder("again").on(never).run(&bus, ()).await.unwrap_err() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.log.close().await.unwrap();
    let over = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    assert!(
        matches!(&over, ReplayError::Log { source, .. } if source.kind() == LogErrorKind::Closed),
        "{over}"
    );
}

/// P10. Red when the rate is not kept, over all partitions, or a partition that waits for its turn is taken for one whose client
/// is dead: what has not been kept is then handled again.
#[tokio::test(start_paused = true)]
async fn it_reads_no_faster_than_it_may() {
    let many = Bench::new(250).await;
    let events: Vec<_> = (0..1_000).map(|number| step(&format!("k{number}"), 1)).collect();
    many.bus.publish_all(&events).await.unwrap();
    let (seen, before) = (Seen::default(), tokio::time::Instant::now());
    Replay::builder("crawls").on(note).rate(10).run(&many.bus, seen.clone()).await.unwrap();
    assert_eq!(seen.all().len(), 1_000);
    let took = before.elapsed();
    assert!((Duration::from_secs(99)..Duration::from_secs(110)).contains(&took), "{took:?}");
    let bench = Bench::new(3).await;
    let events: Vec<_> = (0..600).map(|number| step(&format!("k{number}"), 1)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let before = tokio::time::Instant::now();
    let replayed =
        Replay::builder("slowly").on(note).rate(100).run(&bench.bus, Seen::default()).await.unwrap();
    let took = before.elapsed();
    assert_eq!(replayed.ended, 600);
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

/// Bad input is named, and nothing is handled.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_replayed_is_named() {
    let bench = Bench::new(1).await;
    bench.bus.publish(&step("a", 1)).await.unwrap();
    bench.settle_as("taken", 0, "").await;
    let seen = Seen::default();
    let run = |replay: Replay<Seen>| {
        let (bus, seen) = (bench.bus.clone(), seen.clone());
        async move { replay.run(&bus, seen).await.unwrap_err() }
    };
    let taken = run(Replay::builder("taken").on(note)).await;
    assert!(matches!(&taken, ReplayError::NameTaken { topic, .. } if topic.as_str() == "steps"), "{taken}");
    let still = run(Replay::builder("still").on(note).rate(0)).await;
    let zero = |error: &ReplayError| {
        matches!(error, ReplayError::Declaration(SubscriptionError::Zero { setting: "rate", .. }))
    };
    assert!(zero(&still), "{still}");
    let nothing = run(Replay::builder("nothing")).await;
    assert!(matches!(nothing, ReplayError::Declaration(SubscriptionError::NoHandler(_))), "{nothing}");
    assert_eq!(seen.all(), []);
    let empty = Arc::new(MemoryLog::new(1));
    let environment = bench.bus.environment().clone();
    let bus = Bus::open(Arc::clone(&empty) as _, environment).await.unwrap();
    let missing = Replay::builder("again").on(note).run(&bus, seen.clone()).await.unwrap_err();
    assert!(matches!(&missing, ReplayError::NoTopic { topic, .. } if topic.as_str() == Stepped::INFO.topic));
    assert_eq!(empty.topics(), [], "it makes none");
}
