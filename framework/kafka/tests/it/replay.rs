//! History on a real broker: without a group, partitions beside each other, up to the exact end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct::{Delivery, Replay, Until, prelude::*};
use aqueduct_core::{
    IntoDraft, TopicName,
    log::{PartitionId, Start, TopicSpec},
};

use crate::cluster;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "test.Metered", topic = "metered", key = key)]
struct Metered {
    key: u32,
    number: u32,
}

type Seen = Arc<Mutex<BTreeMap<u32, Vec<u32>>>>;

async fn note(delivery: Delivery<Metered>, State(seen): State<Seen>) -> Handled {
    assert!(delivery.replayed);
    let Metered { key, number } = delivery.event;
    seen.lock().unwrap().entry(key).or_default().push(number);
    Ok(())
}

/// P7, P10. The last entry of each partition is a transaction's marker. Red when a replay waits for
/// a record behind it, misses one before it, or leaves a group behind.
#[tokio::test]
async fn a_replay_comes_to_the_exact_end_behind_a_transactions_marker() {
    let bus = aqueduct::connect(&format!("{}?{}", cluster::url(), cluster::prefix())).await.unwrap();
    let log = bus.log();
    let topic = TopicName::new("metered").unwrap();
    let mut spec = TopicSpec::new(topic.clone());
    spec.partitions = Some(3);
    log.ensure_topic(spec).await.unwrap();
    let metered = |numbers: std::ops::Range<u32>| {
        numbers.flat_map(|number| (0..20).map(move |key| Metered { key, number })).collect::<Vec<_>>()
    };
    bus.publish_all(&metered(0..10)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let middle = bus.environment().now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    bus.publish_all(&metered(10..20)).await.unwrap();
    let mut producer = log.transactional_producer("x").await.unwrap();
    let records = metered(20..21)
        .into_iter()
        .map(|event| (&event).into_draft().unwrap().into_record("test", bus.environment()));
    producer.commit(records.collect(), None).await.unwrap();
    let replay = |from: Start, until: Until| {
        let (bus, seen) = (bus.clone(), Seen::default());
        async move {
            let replay = Replay::builder("again").on(note).from(from).until(until);
            let run = tokio::time::timeout(Duration::from_secs(30), replay.run(&bus, Arc::clone(&seen)));
            let replayed = run.await.expect("it comes to its end").unwrap();
            (replayed, std::mem::take(&mut *seen.lock().unwrap()))
        }
    };
    let all = |numbers: std::ops::Range<u32>| (0..20).map(|key| (key, numbers.clone().collect())).collect();
    let (replayed, seen) = replay(Start::Earliest, Until::End).await;
    assert_eq!((replayed.ended, seen), (420, all(0..21)));
    let ends = log.end_offsets(&topic).await.unwrap();
    assert_eq!(ends.iter().sum::<i64>(), 423, "a marker each");
    for (partition, end) in (0..).zip(ends) {
        let range = &replayed.ranges[&PartitionId { topic: topic.clone(), partition }];
        assert_eq!(*range, 0..end);
    }
    assert_eq!(replay(Start::Earliest, Until::Time(middle)).await.1, all(0..10));
    assert_eq!(replay(Start::Time(middle), Until::End).await.1, all(10..21));
    assert!(log.settled_offsets("again", &topic).await.unwrap().iter().all(Option::is_none));
}

/// P7. Red when how far a replay is lies nowhere, or in a group.
#[tokio::test]
async fn a_replay_that_was_killed_goes_on_from_its_checkpoint() {
    let bus =
        aqueduct::connect(&format!("{}?{}&partitions=2", cluster::url(), cluster::prefix())).await.unwrap();
    let topic = TopicName::new("metered").unwrap();
    bus.log().ensure_topic(TopicSpec::new(topic)).await.unwrap();
    let events: Vec<_> = (0..400).map(|number| Metered { key: number % 20, number }).collect();
    bus.publish_all(&events).await.unwrap();
    let replay = |rate| Replay::builder("again").on(note).checkpoint().rate(rate);
    let (first, second) = (Seen::default(), Seen::default());
    let kept = async || {
        let topic = TopicName::new("again.replay").unwrap();
        while !bus.log().end_offsets(&topic).await.is_ok_and(|ends| ends[0] > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        replayed = replay(20).run(&bus, Arc::clone(&first)) => panic!("it takes 20 s: {replayed:?}"),
        () = kept() => {}
    }
    let replayed = replay(10_000).run(&bus, Arc::clone(&second)).await.unwrap();
    let [first, second] = [first, second].map(|seen| std::mem::take(&mut *seen.lock().unwrap()));
    let mut all: Vec<u32> = first.values().chain(second.values()).flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
    assert!(replayed.ended < 400, "{replayed:?}");
}
