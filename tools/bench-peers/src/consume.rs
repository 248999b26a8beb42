//! An app with one typed handler, set as RustStream's guides set it where no record may be lost: tracked commits, and lanes by
//! the record's key where several run at once.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use ruststream_rdkafka::prelude::*;
use tokio::sync::Notify;

use crate::{
    Place,
    cost::{Cost, Stopwatch},
    event::{KEYS, Sold},
};

/// A run that has not handled everything by then is stuck.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the handlers sleep.
const WORK: Duration = Duration::from_millis(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// The consumer group, which begins at the earliest record.
    #[arg(long)]
    group: String,
    /// How many handlers run at once: more than 1 are lanes by the record's key.
    #[arg(long)]
    workers: NonZeroUsize,
    /// Let the handlers sleep 1 ms.
    #[arg(long)]
    sleep: bool,
}

/// What the handlers count; a run is a process.
struct Seen {
    count: AtomicU64,
    left: AtomicU64,
    /// The last number of each key.
    last: [AtomicI64; KEYS],
    disorder: AtomicU64,
    done: Notify,
}

static SEEN: Seen = Seen {
    count: AtomicU64::new(0),
    left: AtomicU64::new(0),
    last: [const { AtomicI64::new(0) }; KEYS],
    disorder: AtomicU64::new(0),
    done: Notify::const_new(),
};

impl Seen {
    fn one(&self, sold: &Sold) {
        let key = sold.account.strip_prefix('k').and_then(|key| key.parse().ok());
        let last = key.and_then(|key: usize| self.last.get(key));
        if last.is_none_or(|last| last.swap(sold.number, Ordering::Relaxed) >= sold.number) {
            self.disorder.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }
}

#[subscriber]
async fn nothing(sold: &Sold) -> HandlerOutcome {
    black_box(sold);
    SEEN.one(sold);
    HandlerOutcome::ack()
}

#[subscriber]
async fn sleeps(sold: &Sold) -> HandlerOutcome {
    black_box(sold);
    tokio::time::sleep(WORK).await;
    SEEN.one(sold);
    HandlerOutcome::ack()
}

/// Handles all records. The cost is that of all of it, connecting, joining and the last commit included.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Cost> {
    let count = options.place.count;
    SEEN.left.store(count, Ordering::Relaxed);
    let mut in_time = false;
    let stopwatch = Stopwatch::start();
    app(options)
        .run_until(async { in_time = tokio::time::timeout(PATIENCE, SEEN.done.notified()).await.is_ok() })
        .await
        .context("the app failed")?;
    let cost = stopwatch.stop(count);
    let handled = SEEN.count.load(Ordering::Relaxed);
    ensure!(in_time, "of {count} events {handled} were handled in {PATIENCE:?}");
    ensure!(handled == count, "of {count} events {handled} were handled");
    let disorder = SEEN.disorder.load(Ordering::Relaxed);
    ensure!(disorder == 0, "{disorder} of {count} events came out of their key's order");
    Ok(cost)
}

fn app(options: &Options) -> RustStream {
    let Options { place, group, workers, sleep } = options;
    let topic = KafkaTopic::new(&place.topic)
        .group(group)
        .commit(Commit::Tracked)
        .start(StartOffset::Earliest)
        .lane_key(LaneKey::RecordKey);
    let topic = place.properties.iter().fold(topic, |topic, (name, value)| topic.config(name, value));
    let name = place.topic.clone();
    RustStream::new(AppInfo::new("bench-peers", env!("CARGO_PKG_VERSION"))).with_broker(
        KafkaBroker::new([&place.brokers]),
        |broker| match (sleep, workers.get()) {
            (false, 1) => drop(broker.include(nothing.name(name).map_source(|_| topic))),
            (false, _) => {
                drop(broker.include(nothing.name(name).map_source(|_| topic).workers_by_key(*workers)));
            }
            (true, 1) => drop(broker.include(sleeps.name(name).map_source(|_| topic))),
            (true, _) => {
                drop(broker.include(sleeps.name(name).map_source(|_| topic).workers_by_key(*workers)));
            }
        },
    )
}
