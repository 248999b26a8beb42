use std::time::Duration;

use aqueduct_core::{Handled, State, TopicName, log::PartitionId};
use aqueduct_runtime::{Subscription, skip};

use crate::support::{Bench, Seen, Stepped, step, until};

async fn handle(event: Stepped, State(seen): State<Seen>) -> Handled {
    seen.note(&event);
    Ok(())
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicName::new("steps").unwrap(), partition: 0 }
}

/// P1, R2. Red when `Feeder` seeks behind what cannot be read without being asked, or never looks whether it was.
#[tokio::test(start_paused = true)]
async fn what_can_never_be_read_stops_its_partition_until_it_is_skipped() {
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    let steps: Vec<_> = (0..6).map(|number| step("a", number)).collect();
    bench.bus.publish_all(&steps).await.unwrap();
    bench.log.faults().damage(&partition(), 2..4).unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
    running.ended(2).await;
    let stopped = || running.status().partitions.values().next().unwrap().stopped.clone();
    until(|| stopped().is_some()).await;
    let reason = stopped().unwrap();
    assert!(
        reason.starts_with("offsets 2 to before 4 can never be read, until `skip` passes them"),
        "{reason}"
    );
    assert!(!running.status().ready());
    // Other offsets, and another group's.
    skip(&bench.bus, "steps", &partition(), 4..6).await.unwrap();
    skip(&bench.bus, "others", &partition(), 2..4).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((seen.of("a"), stopped().is_some(), bench.settled().await), (vec![0, 1], true, 2));
    skip(&bench.bus, "steps", &partition(), 2..4).await.unwrap();
    running.ended(4).await;
    until(|| stopped().is_none()).await;
    assert_eq!(seen.of("a"), [0, 1, 4, 5]);
    until(|| running.status().ready()).await;
    running.end().await;
    assert_eq!(bench.settled().await, 6);
}

/// R2. What was skipped stays so for who comes later, and a hole at the end of a partition is settled. Red when
/// `skipped` reads only what is asked from now on, or `Passed` does not move the ring.
#[tokio::test(start_paused = true)]
async fn what_was_skipped_before_is_passed_at_once() {
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    let steps: Vec<_> = (0..3).map(|number| step("a", number)).collect();
    bench.bus.publish_all(&steps).await.unwrap();
    bench.log.faults().damage(&partition(), 1..3).unwrap();
    skip(&bench.bus, "steps", &partition(), 1..3).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
    running.ended(1).await;
    until(|| running.status().partitions.values().all(|partition| partition.settled == 3)).await;
    running.end().await;
    assert_eq!((seen.of("a"), bench.settled().await), (vec![0], 3));
}

/// P1, R2. What retention took before it was read is a loss that somebody must have seen. Red when `gone` leaves it out:
/// nothing but a new group would go on.
#[tokio::test(start_paused = true)]
async fn what_was_removed_before_it_was_read_is_passed_by_asking() {
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    let steps: Vec<_> = (0..6).map(|number| step("a", number)).collect();
    bench.bus.publish_all(&steps[..1]).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
    running.ended(1).await;
    running.end().await;
    bench.bus.publish_all(&steps[1..]).await.unwrap();
    bench.log.faults().delete_before(&partition(), 4).unwrap();
    let running = bench.run(Subscription::builder("steps").on(handle), seen.clone());
    let stopped = || running.status().partitions.values().find_map(|partition| partition.stopped.clone());
    until(|| stopped().is_some()).await;
    assert!(stopped().unwrap().starts_with("offsets 1 to before 4 can never be read"), "{:?}", stopped());
    skip(&bench.bus, "steps", &partition(), 1..4).await.unwrap();
    running.ended(2).await;
    running.end().await;
    assert_eq!((seen.of("a"), bench.settled().await), (vec![0, 4, 5], 6));
}

#[tokio::test]
async fn a_wrong_skip_is_refused() {
    let bench = Bench::new(1).await;
    for (offsets, says) in
        [(3..3, "offsets 3 to 3 of steps/0 are none"), (0..1, "topic steps does not exist")]
    {
        let error = skip(&bench.bus, "steps", &partition(), offsets).await.unwrap_err();
        assert_eq!(error.to_string(), format!("asking group steps: {says}"));
    }
}
