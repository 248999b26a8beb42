//! The paths that are counted: one thread, a paused clock, records without text, a handler that does nothing.
//!
//! A run consumes from [`Prepared`]. Marks are taken inside the handler: at the first event after the warm-up and at
//! the last event. So what starts and ends an app is not counted, and of the log only what its port asks per read.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use aqueduct::{
    App, Bus, Environment, Event, Handled, State, Subscription, TopicName,
    core::{
        environment::{Random, SystemClock},
        log::{CommitLog, TopicSpec},
    },
    memory::MemoryLog,
};
use tokio::{runtime::Runtime, sync::Notify};

use crate::{
    consume::FINISH,
    events::Counted,
    many::{self, Types},
    prepared::Prepared,
};

/// Distinct keys of a counted run.
const KEYS: u64 = 64;

/// No partition waits for a settled offset to be stored.
const WINDOW: usize = 1 << 20;

/// Something that counts up, such as allocations so far.
pub type Counter = fn() -> u64;

/// A random source that costs next to nothing and repeats.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(number.iter().cycle()).for_each(|(byte, number)| *byte = *number);
    }
}

/// The environment of counted runs.
#[must_use]
pub fn environment() -> Environment {
    Environment::new(SystemClock, Counting::default())
}

/// One thread with a paused clock: no timer fires while there is work.
///
/// # Errors
/// It cannot be made.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?)
}

/// What instructions are counted in: valgrind finds it by its name.
#[inline(never)]
fn measured<T>(run: impl FnOnce() -> T) -> T {
    run()
}

/// A log with one partition and `count` events, given out in batches.
async fn filled(count: u64, batch: usize) -> anyhow::Result<Prepared> {
    let log = MemoryLog::new(1);
    let bus = Bus::open(Arc::new(log.clone()), environment()).await?;
    let events: Vec<_> = (0..count).map(|number| Counted::new(number, KEYS)).collect();
    for events in events.chunks(1_000) {
        bus.publish_all(events).await?;
    }
    Ok(Prepared::new(log, &TopicName::new(Counted::INFO.topic)?, batch).await?)
}

#[derive(Clone)]
struct Marks(Arc<Inner>);

struct Inner {
    from: u64,
    to: u64,
    seen: AtomicU64,
    counter: Counter,
    marks: Mutex<(u64, u64)>,
    done: Notify,
}

impl Inner {
    fn marks(&self) -> MutexGuard<'_, (u64, u64)> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn mark(event: Counted, State(Marks(inner)): State<Marks>) -> Handled {
    std::hint::black_box(&event);
    let seen = inner.seen.fetch_add(1, Ordering::Relaxed) + 1;
    if seen == inner.from {
        inner.marks().0 = (inner.counter)();
    }
    if seen == inner.to {
        inner.marks().1 = (inner.counter)();
        inner.done.notify_one();
    }
    Ok(())
}

/// Consumes `warm` batches and then `batches` batches of `batch` events; what `counter` counted during the latter.
///
/// # Errors
/// The app failed.
pub fn consume(warm: u64, batches: u64, batch: u64, counter: Counter) -> anyhow::Result<u64> {
    let (from, to) = (warm * batch, (warm + batches) * batch);
    let runtime = runtime()?;
    // The bus lives on: letting go of the log and its records is not the events' cost.
    let (app, inner, _bus) = runtime.block_on(async {
        let log = filled(to, usize::try_from(batch)?).await?;
        let bus = Bus::open(Arc::new(log), environment()).await?;
        let (seen, marks, done) = (AtomicU64::new(0), Mutex::new((0, 0)), Notify::new());
        let inner = Arc::new(Inner { from, to, seen, counter, marks, done });
        // Wider than the run: settling costs per window, not per event.
        let subscription = Subscription::builder("counted").on(mark).window(WINDOW);
        let app = App::builder("bench")
            .log(&bus)
            .state(Marks(Arc::clone(&inner)))
            .subscribe(subscription)
            .build()?;
        anyhow::Ok((app, inner, bus))
    })?;
    measured(|| runtime.block_on(app.run(inner.done.notified())))?;
    let seen = inner.seen.load(Ordering::Relaxed);
    ensure!(seen == to, "{seen} of {to} events were handled");
    let (first, last) = *inner.marks();
    Ok(last - first)
}

/// Consumes `count` events that are spread over as many types, each with a handler of its own.
///
/// # Errors
/// The app failed, or there is no such number of types.
pub fn handlers(types: u64, count: u64) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (app, _bus) = runtime.block_on(async {
        let log = MemoryLog::new(1);
        let bus = Bus::open(Arc::new(log.clone()), environment()).await?;
        let Types { drafts, subscription } = many::types("counted", types)?;
        let mut batch = Vec::new();
        for (number, draft) in (0..count).zip(drafts.iter().cycle()) {
            batch.push(draft(Counted::new(number, KEYS))?);
            if batch.len() == 1_000 || number + 1 == count {
                bus.publish_all(std::mem::take(&mut batch)).await?;
            }
        }
        let log = Prepared::new(log, &TopicName::new(many::TOPIC)?, 256).await?;
        let bus = Bus::open(Arc::new(log), environment()).await?;
        let app = App::builder("bench").log(&bus).subscribe(subscription.window(WINDOW)).build()?;
        anyhow::Ok((app, bus))
    })?;
    FINISH.expect(count);
    measured(|| runtime.block_on(app.run(FINISH.done())))?;
    ensure!(FINISH.left() == 0, "{} of {count} events were not handled", FINISH.left());
    Ok(())
}

/// Publishes `warm` and then `count` events, awaiting each, to a log that stores nothing; what `counter` counted
/// during the latter.
///
/// # Errors
/// A publish failed.
pub fn publish(warm: u64, count: u64, counter: Counter) -> anyhow::Result<u64> {
    let runtime = runtime()?;
    let bus = runtime.block_on(async {
        let (log, topic) = (MemoryLog::new(1), TopicName::new(Counted::INFO.topic)?);
        log.ensure_topic(TopicSpec::new(topic.clone())).await?;
        anyhow::Ok(Bus::open(Arc::new(Prepared::new(log, &topic, 1).await?), environment()).await?)
    })?;
    let publish = async {
        let mut first = 0;
        for number in 0..warm + count {
            if number == warm {
                first = counter();
            }
            bus.publish(&Counted::new(number, KEYS)).await.context("a publish failed")?;
        }
        Ok(counter() - first)
    };
    measured(|| runtime.block_on(publish))
}

/// Encodes `count` events with serde_json alone: the part of publishing that is the service's own.
///
/// # Errors
/// Never: an event of ours serializes.
pub fn encode(count: u64) -> anyhow::Result<()> {
    measured(|| {
        (0..count).try_for_each(|number| {
            std::hint::black_box(serde_json::to_vec(&Counted::new(number, KEYS))?);
            Ok(())
        })
    })
}

/// Decodes `count` events with serde_json alone: the part of consuming that is the service's own.
///
/// # Errors
/// Never: an event of ours is read back.
pub fn decode(count: u64) -> anyhow::Result<()> {
    let payload = serde_json::to_vec(&Counted::new(0, KEYS))?;
    measured(|| {
        (0..count).try_for_each(|_| {
            std::hint::black_box(serde_json::from_slice::<Counted>(std::hint::black_box(&payload))?);
            Ok(())
        })
    })
}

async fn stuck(event: Counted, State(first): State<u64>) -> Handled {
    if event.account == first {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// What a subscription held while one key was stuck.
#[derive(Debug, Clone, Copy)]
pub struct Stuck {
    /// The window.
    pub window: usize,
    /// Records of a batch.
    pub batch: usize,
    /// Events of other keys that were handled.
    pub ended: u64,
    /// The most deliveries in flight.
    pub in_flight: usize,
    /// The most records in batches that were still held.
    pub held: usize,
}

/// Handles `count` events, of which the first key never ends, until nothing moves any more.
///
/// # Errors
/// The app failed.
pub fn stuck_key(count: u64, window: usize, batch: usize) -> anyhow::Result<Stuck> {
    runtime()?.block_on(async {
        let log = filled(count, batch).await?;
        let live = log.live();
        let bus = Bus::open(Arc::new(log), environment()).await?;
        let subscription = Subscription::builder("stuck").on(stuck).window(window);
        let first = Counted::new(0, KEYS).account;
        let app = App::builder("bench").log(&bus).state(first).subscribe(subscription).build()?;
        let status = app.status();
        let (mut in_flight, mut held, mut ended) = (0, 0, 0);
        // The clock is paused, so each of these sleeps lasts until nothing else can go on.
        let watch = async {
            for _ in 0..100 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                for subscription in status.subscriptions() {
                    ended = subscription.ended;
                    in_flight = subscription
                        .partitions
                        .values()
                        .map(|partition| partition.in_flight)
                        .fold(in_flight, usize::max);
                }
                held = held.max(live.load(Ordering::Relaxed));
            }
        };
        app.run(watch).await?;
        Ok(Stuck { window, batch, ended, in_flight, held })
    })
}
