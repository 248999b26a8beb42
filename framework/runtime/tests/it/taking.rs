//! Partitions between the word that they are given and their first delivery.

use std::time::Duration;

use aqueduct_core::{
    Handled, LogErrorKind, State, TopicName,
    log::{CommitLog, Signal},
};
use aqueduct_runtime::Subscription;

use crate::support::{Bench, Running, Seen, Stepped, step, until};

async fn handle(event: Stepped, State(seen): State<Seen>) -> Handled {
    seen.note(&event);
    Ok(())
}

fn subscription() -> Subscription<Seen> {
    Subscription::builder("steps").on(handle)
}

/// Of each partition, whether it waits to be read.
fn waits(running: &Running) -> Vec<bool> {
    let told = "it cannot be taken yet: steps: failed on command";
    running.status().partitions.values().map(|status| status.waiting.as_deref() == Some(told)).collect()
}

/// Eight events of eight keys in two partitions, and a member whose next `failing` questions fail.
async fn begin(failing: usize) -> (Bench, Running, Seen) {
    let (bench, seen) = (Bench::new(2).await, Seen::default());
    for key in 0..8 {
        bench.bus.publish(&step(&format!("k{key}"), 1)).await.unwrap();
    }
    bench.log.faults().fail_next_questions(failing, LogErrorKind::Unreachable);
    let running = bench.run(subscription(), seen.clone());
    (bench, running, seen)
}

/// The same, while neither partition can be read.
async fn unread() -> (Bench, Running, Seen) {
    let (bench, running, seen) = begin(usize::MAX).await;
    until(|| waits(&running) == [true, true]).await;
    (bench, running, seen)
}

/// All is handled, once, when questions are answered.
async fn end(bench: Bench, running: Running, seen: &Seen) {
    bench.log.faults().fail_next_questions(0, LogErrorKind::Unreachable);
    until(|| seen.all().len() >= 8).await;
    running.end().await;
    let mut keys = seen.all();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), seen.all().len()), (8, 8), "each once");
    assert_eq!(bench.settled().await, 8);
}

/// P10. A partition that cannot be read yet says so, and its neighbour does not wait for it. Red when the client is taken for
/// dead.
#[tokio::test(start_paused = true)]
async fn a_partition_that_cannot_be_read_yet_keeps_nobody_up() {
    // Both together, and the first alone.
    let (bench, running, seen) = begin(2).await;
    until(|| !seen.all().is_empty()).await;
    assert_eq!(waits(&running), [true, false]);
    let status = running.status();
    assert!(status.partitions.values().nth(1).unwrap().ended > 0);
    assert_eq!(status.client, None);
    end(bench, running, &seen).await;
}

/// P9. Red when a revoke of a partition that is being taken up is not answered.
#[tokio::test(start_paused = true)]
async fn what_is_being_taken_up_is_given_back_at_once() {
    let (bench, running, seen) = unread().await;
    let other = bench.log.process();
    let other = other.consumer("steps", &[TopicName::new("steps").unwrap()]).await.unwrap();
    let signal =
        tokio::time::timeout(Duration::from_secs(30), other.signal()).await.expect("it is given back");
    let Signal::Assigned(given) = signal.unwrap() else { panic!("it is given one") };
    assert_eq!(given.len(), 1);
    assert_eq!(waits(&running), [true]);
    other.close().await.unwrap();
    end(bench, running, &seen).await;
}

/// P4, P10. It is lost, and given anew, while it is being taken up. Red when what became of the older take is taken for that of
/// the newer.
#[tokio::test(start_paused = true)]
async fn two_generations_are_taken_up_at_once() {
    let (bench, running, seen) = unread().await;
    bench.log.faults().lose("steps").unwrap();
    // Both takes are tried again meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(waits(&running), [true, true]);
    end(bench, running, &seen).await;
}
