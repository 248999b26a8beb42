//! Publishing to the embedded log, against prepared inserts of the same bytes in the same transaction sizes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, ensure};
use aqueduct::{
    Bus, Environment, Event, TopicName,
    core::log::{CommitLog, TopicSpec},
    embedded::{EmbeddedLog, EmbeddedOptions},
    system_environment,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    estimate::median,
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    raw::{self, Held, PARTITIONS},
    sizes,
};

/// Events that are published again and again.
const POOL: u64 = 20_000;

/// A runtime as `#[tokio::main]` makes it.
///
/// # Errors
/// It cannot be made.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// An embedded log with the scoreboard's partitions, and a bus on it.
///
/// # Errors
/// It cannot be opened.
pub async fn open(path: &Path, environment: &Environment) -> anyhow::Result<(Arc<EmbeddedLog>, Bus)> {
    let options = EmbeddedOptions::new(path, environment.clone()).partitions(PARTITIONS);
    let log = EmbeddedLog::open(options).await?;
    let bus = Bus::open(Arc::clone(&log) as Arc<dyn CommitLog>, environment.clone()).await?;
    Ok((log, bus))
}

/// Who publishes.
#[derive(Debug, Clone, Copy)]
pub enum Publishers {
    /// So many callers, each awaiting one event at a time.
    Awaited(usize),
    /// One caller, with batches of this size.
    Batches(usize),
}

/// A row of publishing.
#[derive(Debug)]
pub struct Publishing {
    name: &'static str,
    publishers: Publishers,
    count: u64,
    bar: Option<f64>,
    dir: PathBuf,
    pool: Arc<[Sold]>,
    environment: Environment,
    sizes: Vec<usize>,
    held: Option<Held>,
}

impl Publishing {
    /// Publishes `count` events in each run.
    ///
    /// # Errors
    /// The events cannot be made.
    pub fn new(
        name: &'static str,
        publishers: Publishers,
        count: u64,
        bar: Option<f64>,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            publishers,
            count,
            bar,
            dir: dir.join(name),
            pool: pool(POOL, Keys::Zipf)?.into(),
            environment: system_environment(),
            sizes: Vec::new(),
            held: None,
        })
    }

    fn fresh(&self) -> anyhow::Result<PathBuf> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        fs::create_dir_all(&self.dir)?;
        Ok(self.dir.join("log.db"))
    }

    /// Both sides must leave the same records.
    fn verify(&mut self, path: &Path) -> anyhow::Result<()> {
        let held = raw::held(path)?;
        ensure!(
            held.records == self.count && held.ends == self.count,
            "{} events were published, the log holds {held:?}",
            self.count
        );
        if let Some(before) = &self.held {
            ensure!(held == *before, "the sides left {before:?} and {held:?}");
        }
        self.held = Some(held);
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    async fn publish(&self, bus: &Bus) -> anyhow::Result<Cost> {
        let count = usize::try_from(self.count)?;
        let stopwatch = Stopwatch::start();
        match self.publishers {
            Publishers::Awaited(callers) => {
                let next = Arc::new(AtomicUsize::new(0));
                let mut tasks = JoinSet::new();
                for _ in 0..callers {
                    let (bus, pool, next) = (bus.clone(), Arc::clone(&self.pool), Arc::clone(&next));
                    tasks.spawn(async move {
                        loop {
                            let at = next.fetch_add(1, Ordering::Relaxed);
                            if at >= count {
                                return anyhow::Ok(());
                            }
                            bus.publish(&pool[at % pool.len()]).await?;
                        }
                    });
                }
                while let Some(ended) = tasks.join_next().await {
                    ended??;
                }
            }
            Publishers::Batches(size) => {
                let mut events = self.pool.iter().cycle();
                let mut left = count;
                while left > 0 {
                    let size = size.min(left);
                    bus.publish_all(events.by_ref().take(size)).await?;
                    left -= size;
                }
            }
        }
        Ok(stopwatch.stop(self.count))
    }
}

impl Row for Publishing {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        let ours = match self.publishers {
            Publishers::Awaited(1) => "one caller awaits each publish".to_owned(),
            Publishers::Awaited(callers) => format!("{callers} callers await each publish"),
            Publishers::Batches(size) => format!("one caller, publish_all of {size}"),
        };
        format!(
            "{ours}, embedded log, synced; against encode and prepared INSERT of the same bytes in the same \
             transaction sizes, one thread"
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        self.bar.map(|bar| (By::Cpu, bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let path = self.fresh()?;
        let cost = runtime()?.block_on(async {
            let (log, bus) = open(&path, &self.environment).await?;
            log.ensure_topic(TopicSpec::new(TopicName::new(Sold::INFO.topic)?)).await?;
            drop(sizes::take());
            let cost = self.publish(&bus).await?;
            log.close().await?;
            anyhow::Ok(cost)
        })?;
        self.sizes = sizes::take();
        self.verify(&path)?;
        Ok(cost)
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let path = self.fresh()?;
        let cost = raw::insert(&path, &self.pool, self.count, &self.sizes, &self.environment)?;
        self.verify(&path)?;
        Ok(cost)
    }

    fn remark(&self) -> String {
        remark(&self.sizes)
    }
}

/// The transaction sizes of the last run.
#[must_use]
pub fn remark(sizes: &[usize]) -> String {
    let sizes: Vec<f64> = sizes.iter().filter_map(|size| u32::try_from(*size).ok().map(f64::from)).collect();
    let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
    format!("{} transactions in the last run, mean {mean:.1}, median {:.0}", sizes.len(), median(&sizes))
}
