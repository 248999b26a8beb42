//! P10: quiet never means stuck. Twelve stalls are planted, three of each kind; each must be seen within 30 s.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{Handled, LogErrorKind, State, Terminal};
use aqueduct_runtime::{OnFailure, Retry, StallKind, Subscription, SubscriptionStatus};

use crate::support::{Bench, Running, Seen, Stepped, step, until};

/// Within so long a stall must be seen: DESIGN's 30 s, and the status' own second.
const SEEN: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Shop {
    seen: Seen,
    well: Arc<AtomicBool>,
}

/// `hangs` never returns, `fails` asks for another attempt, `refused` fails for good.
async fn handle(event: Stepped, State(shop): State<Shop>) -> Handled {
    let well = shop.well.load(Ordering::Relaxed);
    match event.key.split('-').next() {
        Some("hangs") => std::future::pending().await,
        Some("fails") if !well => return Err("not yet".into()),
        Some("refused") => return Err(Terminal::new("never").into()),
        _ => {}
    }
    shop.seen.note(&event);
    Ok(())
}

fn subscription() -> Subscription<Shop> {
    Subscription::builder("steps").on(handle).retry(Retry::exponential().attempts(1_000))
}

fn kinds(status: &SubscriptionStatus) -> Vec<StallKind> {
    status.partitions.values().filter_map(|partition| Some(partition.stall.as_ref()?.kind)).collect()
}

async fn seen_within(limit: Duration, condition: impl Fn() -> bool) {
    let began = tokio::time::Instant::now();
    until(condition).await;
    assert!(began.elapsed() <= limit, "{:?}", began.elapsed());
}

/// Keeps one healthy key going.
async fn traffic(bench: &Bench, running: &Running, seconds: u32) {
    for number in 0..seconds {
        bench.bus.publish(&step("ok", number)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(running.status().ended > 0);
}

/// Red when `Monitor::look` is not called, or `judge` takes deliveries that end for progress of the settled offset.
#[tokio::test(start_paused = true)]
async fn a_key_that_holds_the_settled_offset_is_seen_and_named() {
    for key in ["hangs-1", "fails-2", "hangs-3"] {
        let bench = Bench::new(1).await;
        let shop = Shop::default();
        let running = bench.run(subscription(), shop.clone());
        bench.bus.publish(&step(key, 1)).await.unwrap();
        traffic(&bench, &running, 30).await;
        let status = running.status();
        assert_eq!((kinds(&status), status.ready()), (vec![StallKind::Key], true));
        let reason = &status.partitions.values().next().unwrap().stall.as_ref().unwrap().reason;
        assert!(reason.starts_with(&format!("key {key} at offset 0 ")), "{reason}");
        running.stop.cancel();
    }
}

/// Red when `ready` looks at stopped partitions alone.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_holds_all_makes_it_unready() {
    let bench = Bench::new(1).await;
    let running = bench.run(subscription(), Shop::default());
    bench.bus.publish(&step("hangs-1", 1)).await.unwrap();
    seen_within(SEEN, || !running.status().ready() && running.status().joined).await;
    assert_eq!(kinds(&running.status()), [StallKind::Stuck]);
    // An idle partition is not one.
    let other = Bench::new(1).await;
    let idle = other.run(subscription(), Shop::default());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(idle.status().ready() && kinds(&idle.status()).is_empty());
    running.stop.cancel();
    idle.end().await;
}

/// Three outages: what a handler needs, the log that takes its events, the log that takes parked copies.
#[tokio::test(start_paused = true)]
async fn an_outage_is_seen_explained_and_over() {
    for (outage, explained) in [
        ("handler", "no other delivery of its handler succeeds: not yet"),
        ("parked copies", "the parked copy of steps/0@0 cannot be stored now"),
        ("settles", ""),
    ] {
        let bench = Bench::new(1).await;
        let shop = Shop::default();
        let faults = bench.log.faults();
        let (key, retry) = match outage {
            "handler" => ("fails", Retry::exponential().attempts(2)),
            _ => ("refused", Retry::exponential().attempts(2)),
        };
        let running = bench.run(Subscription::builder("steps").on(handle).retry(retry), shop.clone());
        bench.begun().await;
        if outage == "settles" {
            // Settling is retried for ever, and what ends goes on ending: no stall, and nothing is lost.
            faults.fail_next_settles(usize::MAX, LogErrorKind::Unreachable);
        } else {
            faults.fail_next_transactions(1_000_000, LogErrorKind::Unreachable);
        }
        bench.bus.publish(&step(key, 1)).await.unwrap();
        if outage == "settles" {
            running.ended(1).await;
            tokio::time::sleep(SEEN).await;
            assert!(running.status().ready());
            faults.fail_next_settles(0, LogErrorKind::Unreachable);
        } else {
            seen_within(SEEN, || !running.status().ready() && running.status().joined).await;
            let status = running.status();
            assert_eq!(kinds(&status), [StallKind::Outage], "{outage}");
            let reason = &status.partitions.values().next().unwrap().stall.as_ref().unwrap().reason;
            assert!(reason.contains(explained), "{reason}");
        }
        shop.well.store(true, Ordering::Relaxed);
        faults.fail_next_transactions(0, LogErrorKind::Unreachable);
        running.ended(1).await;
        seen_within(Duration::from_secs(5), || running.status().ready()).await;
        running.end().await;
    }
}

/// What a settled offset that is not stored stops in the end: the window counts from the stored one. Red when `judge`
/// does not look at it.
#[tokio::test(start_paused = true)]
async fn a_window_that_no_settled_offset_empties_is_an_outage() {
    let bench = Bench::new(1).await;
    let shop = Shop::default();
    let faults = bench.log.faults();
    let running = bench.run(subscription().window(4), shop.clone());
    bench.begun().await;
    faults.fail_next_settles(usize::MAX, LogErrorKind::Unreachable);
    for number in 0..8 {
        bench.bus.publish(&step("ok", number)).await.unwrap();
    }
    running.ended(4).await;
    seen_within(SEEN, || kinds(&running.status()) == [StallKind::Outage]).await;
    let status = running.status();
    assert!(!status.ready());
    let reason = &status.partitions.values().next().unwrap().stall.as_ref().unwrap().reason;
    assert_eq!(reason, "the settled offset is not stored, and the window is full from 0 on");
    assert_eq!(status.ended, 4);
    faults.fail_next_settles(0, LogErrorKind::Unreachable);
    running.ended(8).await;
    seen_within(Duration::from_secs(5), || running.status().ready()).await;
    running.end().await;
}

/// P3, P10. A new group in an outage of what stores its beginning handles nothing, and says so. Red when `judge` does not look
/// at it, or it is handled before: a kill would then begin later, or what it skips would expire unnoticed.
#[tokio::test(start_paused = true)]
async fn a_beginning_that_cannot_be_stored_is_an_outage() {
    let bench = Bench::new(1).await;
    let faults = bench.log.faults();
    faults.fail_next_settles(usize::MAX, LogErrorKind::Unreachable);
    bench.bus.publish(&step("ok", 0)).await.unwrap();
    let running = bench.run(subscription(), Shop::default());
    seen_within(SEEN, || kinds(&running.status()) == [StallKind::Outage]).await;
    let status = running.status();
    assert!(!status.ready());
    let reason = &status.partitions.values().next().unwrap().stall.as_ref().unwrap().reason;
    assert!(reason.starts_with("where it begins is not stored yet: "), "{reason}");
    assert_eq!(status.ended, 0);
    faults.fail_next_settles(0, LogErrorKind::Unreachable);
    running.ended(1).await;
    seen_within(Duration::from_secs(5), || running.status().ready()).await;
    running.end().await;
    assert_eq!(bench.settled().await, 1);
}

/// A log that answers no question at all. Red when the question for the ends has no time-out, or silence counts from its
/// answer.
#[tokio::test(start_paused = true)]
async fn a_log_that_answers_nothing_is_an_outage() {
    let bench = Bench::new(1).await;
    let running = bench.run(subscription(), Shop::default());
    bench.bus.publish(&step("a", 1)).await.unwrap();
    running.ended(1).await;
    // What is settled does not come again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let faults = bench.log.faults();
    faults.pause(&bench.log);
    seen_within(SEEN, || kinds(&running.status()) == [StallKind::Outage]).await;
    assert!(!running.status().ready());
    let status = running.status();
    let reason = &status.partitions.values().next().unwrap().stall.as_ref().unwrap().reason;
    assert!(reason.contains("the log does not answer: no answer"), "{reason}");
    faults.resume(&bench.log);
    bench.bus.publish(&step("a", 2)).await.unwrap();
    running.ended(2).await;
    seen_within(Duration::from_secs(10), || running.status().ready()).await;
    running.end().await;
}

/// An empty assignment is ready, but not while nobody knows whether it is still empty. Red when `look` asks nothing of a
/// subscription without partitions.
#[tokio::test(start_paused = true)]
async fn a_log_that_answers_nothing_is_an_outage_for_a_member_without_partitions_too() {
    let bench = Bench::new(1).await;
    let first = bench.run(subscription(), Shop::default());
    bench.bus.publish(&step("a", 1)).await.unwrap();
    first.ended(1).await;
    let idle = bench.run(subscription(), Shop::default());
    seen_within(SEEN, || idle.status().joined).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(idle.status().ready() && idle.status().partitions.is_empty());
    let faults = bench.log.faults();
    faults.pause(&bench.log);
    seen_within(SEEN, || !idle.status().ready()).await;
    assert!(idle.status().client.unwrap().starts_with("the log does not answer: no answer"));
    faults.resume(&bench.log);
    seen_within(Duration::from_secs(10), || idle.status().ready()).await;
    first.end().await;
    idle.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_partition_is_seen() {
    for key in ["refused-1", "refused-2", "refused-3"] {
        let bench = Bench::new(1).await;
        let running = bench.run(subscription().then(OnFailure::Stop), Shop::default());
        bench.bus.publish(&step(key, 1)).await.unwrap();
        seen_within(Duration::from_secs(5), || kinds(&running.status()) == [StallKind::Stopped]).await;
        assert!(!running.status().ready());
        running.end().await;
    }
}

/// A client that fails, one that fails twice, and one that hangs without a word. Red when `run` gives up on an error of
/// the client, or `compare` is not called.
#[tokio::test(start_paused = true)]
async fn a_dead_client_is_seen_and_made_anew() {
    for death in ["fails", "fails twice", "hangs"] {
        let bench = Bench::new(2).await;
        let shop = Shop::default();
        let running = bench.run(subscription(), shop.clone());
        bench.bus.publish(&step("a", 1)).await.unwrap();
        running.ended(1).await;
        // What is settled does not come again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let faults = bench.log.faults();
        if death == "hangs" {
            faults.silence_consumers(&bench.log);
        } else {
            faults.fail_consumers(&bench.log, LogErrorKind::Unreachable);
        }
        bench.bus.publish_all(&[step("a", 2), step("b", 1)]).await.unwrap();
        seen_within(SEEN, || running.status().client.is_some()).await;
        assert!(!running.status().ready(), "{death}");
        if death == "fails twice" {
            faults.fail_consumers(&bench.log, LogErrorKind::Unreachable);
        }
        faults.resume(&bench.log);
        running.ended(3).await;
        seen_within(SEEN, || running.status().ready()).await;
        assert_eq!((shop.seen.of("a"), shop.seen.of("b")), (vec![1, 2], vec![1]), "{death}");
        running.end().await;
        assert_eq!(bench.settled().await, 3);
    }
}
