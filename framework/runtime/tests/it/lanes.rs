use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{Handled, LogErrorKind, State};
use aqueduct_runtime::Subscription;

use crate::support::{Bench, Seen, Stepped, step, until};

/// R2: a handler that blocks its thread gets tasks of its own, and does not hold its neighbours up for good. Red when
/// `took` is never called: the quick keys then wait for all the slow ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_is_taken_out_of_line() {
    #[derive(Clone, Default)]
    struct Blocks {
        at_once: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
    }
    async fn block(event: Stepped, State(blocks): State<Blocks>) -> Handled {
        let now = blocks.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        blocks.most.fetch_max(now, Ordering::Relaxed);
        // What a careless handler does.
        std::thread::sleep(Duration::from_millis(if event.number == 0 { 5 } else { 1 }));
        blocks.at_once.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let events: Vec<_> = (0..200).map(|number| step(&format!("k{number}"), 0)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    let blocks = Blocks::default();
    let running = bench.run(Subscription::builder("steps").on(block), blocks.clone());
    running.ended(200).await;
    running.end().await;
    assert!(blocks.most.load(Ordering::Relaxed) > 1, "one partition used one thread alone");
}

/// P3: what a crash repeats is no more than a window. Red when the window counts from what has ended in memory.
#[tokio::test(start_paused = true)]
async fn no_more_than_a_window_is_above_the_stored_settled_offset() {
    async fn note(event: Stepped, State(seen): State<Seen>) -> Handled {
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    let running = bench.run(Subscription::builder("steps").on(note).window(10), seen.clone());
    bench.begun().await;
    // Nothing can be stored.
    bench.log.faults().fail_next_settles(1_000_000, LogErrorKind::Unreachable);
    let events: Vec<_> = (0..100).map(|number| step("a", number)).collect();
    bench.bus.publish_all(&events).await.unwrap();
    until(|| seen.all().len() >= 10).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((seen.all().len(), bench.settled().await), (10, 0));
    bench.log.faults().fail_next_settles(0, LogErrorKind::Unreachable);
    running.ended(100).await;
    running.end().await;
    assert_eq!(seen.of("a"), (0..100).collect::<Vec<_>>());
}
