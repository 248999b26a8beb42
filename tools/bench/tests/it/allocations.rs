//! Allocations per event.

use crate::{figures, gates, number};

const WARM: u64 = 40;
const BATCHES: u64 = 80;

fn consuming(batch: u64) -> u64 {
    number(gates().args(["allocations-consume"]).args([WARM, BATCHES, batch].map(|each| each.to_string())))
}

/// Issue B: none of ours per consumed event on the ready path. As many batches of one event, of 32 and of 256 allocate
/// the same, so what is left belongs to the batch: the log's batch and boxed future, the hand-over between tasks.
///
/// Red when the ready path boxes a handler's future, copies a key, or makes an envelope with text of its own.
#[test]
fn a_consumed_event_allocates_nothing() {
    let counts = [1, 32, 256].map(consuming);
    let [one, some, many] = counts;
    println!(
        "{BATCHES} batches of 1, 32 and 256 events: {counts:?} allocations, {:.1} per batch, {:.4} per event",
        one as f64 / BATCHES as f64,
        many.saturating_sub(one) as f64 / (BATCHES * 255) as f64
    );
    assert_eq!(some, one, "{some} allocations for batches of 32, {one} for batches of 1");
    assert_eq!(many, one, "{many} allocations for batches of 256, {one} for batches of 1");
}

/// Red when publishing copies the name or the source of an event, or its headers, once more.
#[test]
fn a_published_event_allocates_what_is_committed() {
    let publishing = |count: u64| {
        number(gates().args(["allocations-publish"]).args([1_000, count].map(|each| each.to_string())))
    };
    let per_event = (publishing(20_000) - publishing(10_000)) as f64 / 10_000.0;
    let committed = figures().publish_allocations;
    println!("{per_event:.3} allocations per published event, committed {committed:.3}");
    assert!(
        per_event <= committed + 0.01,
        "{per_event} allocations per published event, {committed} are committed"
    );
    assert!(
        per_event >= committed - 0.5,
        "{per_event} allocations per published event: commit the better figure in tools/bench/instructions.json"
    );
}
