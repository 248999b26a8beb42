//! Consuming the embedded log by key with a handler that does nothing, against range SELECT plus decode.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use aqueduct::{
    App, Bus, Environment, Event, Handled, Subscription, TopicName, core::log::CommitLog,
    embedded::EmbeddedLog, system_environment,
};
use tokio::{runtime::Runtime, sync::Notify};

use crate::{
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    publish::{open, runtime},
    raw,
};

/// A run that has not handled everything by then is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// Handlers count down to the end of a run; one run at a time.
#[derive(Debug)]
pub struct Finish {
    left: AtomicU64,
    done: Notify,
}

/// The run's end.
pub static FINISH: Finish = Finish { left: AtomicU64::new(0), done: Notify::const_new() };

impl Finish {
    /// A run of `count` events begins.
    pub fn expect(&self, count: u64) {
        self.left.store(count, Ordering::Relaxed);
    }

    /// How many are left; beyond zero where one too many was handled.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Waits for the last.
    pub async fn done(&self) {
        self.done.notified().await;
    }

    /// One event was handled.
    pub fn one(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }
}

/// Runs `app` until `count` events were handled, then drains it. The cost is that of all of it, joining, settling and
/// draining included; a delivery too many is an error.
///
/// # Errors
/// The app failed, was stuck, or handled an event twice.
pub async fn handle(app: App, count: u64) -> anyhow::Result<Cost> {
    FINISH.expect(count);
    let stopwatch = Stopwatch::start();
    app.run(tokio::time::timeout(PATIENCE, FINISH.done())).await?;
    let cost = stopwatch.stop(count);
    let left = FINISH.left();
    ensure!(left == 0, "of {count} events {} were handled", count.wrapping_sub(left));
    Ok(cost)
}

/// What a group has settled must be all that there is.
///
/// # Errors
/// It is not.
pub async fn settled(log: &dyn CommitLog, group: &str, topic: &str) -> anyhow::Result<()> {
    let topic = TopicName::new(topic)?;
    let ends = log.end_offsets(&topic).await?;
    let settled = log.settled_offsets(group, &topic).await?;
    for (end, settled) in ends.iter().zip(&settled) {
        ensure!(
            *end == 0 || settled.as_ref().is_some_and(|settled| settled.offset == *end),
            "group {group} has settled {settled:?}, the log ends at {ends:?}"
        );
    }
    Ok(())
}

/// The handler that does nothing.
///
/// # Errors
/// Never.
pub async fn nothing(event: Sold) -> Handled {
    std::hint::black_box(&event);
    FINISH.one();
    Ok(())
}

/// An embedded log with records that every run of a row reads, each under a group of its own.
#[derive(Debug)]
pub struct Filled {
    /// The runtime that it lives in.
    pub runtime: Runtime,
    /// The file.
    pub path: PathBuf,
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// A bus on it.
    pub bus: Bus,
    /// How many records.
    pub count: u64,
    /// Runs so far.
    runs: u32,
}

impl Filled {
    /// Publishes `count` standard events into a new file.
    ///
    /// # Errors
    /// The log failed.
    pub fn new(dir: &Path, count: u64, keys: Keys, environment: &Environment) -> anyhow::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        let (path, runtime) = (dir.join("log.db"), runtime()?);
        let (log, bus) = runtime.block_on(async {
            let (log, bus) = open(&path, environment).await?;
            for batch in pool(count, keys)?.chunks(1_000) {
                bus.publish_all(batch).await?;
            }
            anyhow::Ok((log, bus))
        })?;
        Ok(Self { runtime, path, log, bus, count, runs: 0 })
    }

    /// A group that has not read anything.
    pub fn group(&mut self) -> String {
        self.runs += 1;
        format!("bench-{}", self.runs)
    }

    /// Runs one subscription to the end, and looks at what it settled.
    ///
    /// # Errors
    /// It failed, or its counts are wrong.
    pub fn run(&self, group: &str, subscription: Subscription<()>) -> anyhow::Result<Cost> {
        self.runtime.block_on(async {
            let app = App::builder("bench").log(&self.bus).subscribe(subscription).build()?;
            let cost = handle(app, self.count).await?;
            settled(&*self.log, group, Sold::INFO.topic).await?;
            Ok(cost)
        })
    }
}

/// The row of consuming.
#[derive(Debug)]
pub struct Consuming {
    name: &'static str,
    concurrency: usize,
    dir: PathBuf,
    count: u64,
    bar: f64,
    filled: Option<Filled>,
}

impl Consuming {
    /// Handles `count` events in each run.
    #[must_use]
    pub fn new(name: &'static str, concurrency: usize, count: u64, bar: f64, dir: &Path) -> Self {
        Self { name, concurrency, dir: dir.join(name), count, bar, filled: None }
    }

    fn filled(&mut self) -> anyhow::Result<&mut Filled> {
        let filled = match self.filled.take() {
            Some(filled) => filled,
            None => Filled::new(&self.dir, self.count, Keys::Zipf, &system_environment())?,
        };
        Ok(self.filled.insert(filled))
    }
}

impl Row for Consuming {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        format!(
            "an app with one typed handler that does nothing, by key, concurrency {}, embedded log; against range \
             SELECT and decode of the same records, one thread",
            self.concurrency
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        Some((By::Cpu, self.bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let concurrency = self.concurrency;
        let filled = self.filled()?;
        let group = filled.group();
        filled.run(&group, Subscription::builder(&group).on(nothing).concurrency(concurrency))
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let filled = self.filled()?;
        raw::select(&filled.path, filled.count)
    }

    fn remark(&self) -> String {
        format!("{} partitions, keys by Zipf 1.0 over 10,000", raw::PARTITIONS)
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let closed = self.runtime.block_on(self.log.close());
        // Figures are printed before; a file that stays is overwritten by the next run.
        if let Err(error) = closed {
            tracing::warn!(%error, "the bench's log did not close");
        }
        if let Some(dir) = self.path.parent()
            && let Err(error) = fs::remove_dir_all(dir)
        {
            tracing::warn!(%error, "the bench's log was not removed");
        }
    }
}
