//! Publishing, against rdkafka's `ThreadedProducer` and against librdkafka called directly.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aqueduct::{Bus, core::log::CommitLog};
use bench::{
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    publish::runtime,
    raw::PARTITIONS,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    cluster::Cluster,
    raw::{direct, wrapped},
};

/// Events that are published again and again.
const POOL: u64 = 20_000;
/// Callers of `publish_all` at once, so that one batch is encoded while others are on their way.
const CALLERS: usize = 4;

/// What our side is compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Against {
    /// rdkafka's `ThreadedProducer`.
    Threaded,
    /// A topic handle of librdkafka.
    Handle,
    /// `ThreadedProducer`, with so many callers that wait for each event.
    Waiting(usize),
}

/// A row of publishing.
#[derive(Debug)]
pub(crate) struct Publishing {
    pub(crate) name: &'static str,
    pub(crate) against: Against,
    pub(crate) count: u64,
    pub(crate) bar: Option<f64>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) pool: Arc<[Sold]>,
}

impl Publishing {
    pub(crate) fn new(
        name: &'static str,
        against: Against,
        count: u64,
        bar: Option<f64>,
        cluster: &Arc<Cluster>,
    ) -> anyhow::Result<Self> {
        let pool = pool(POOL, Keys::Zipf)?.into();
        Ok(Self { name, against, count, bar, cluster: Arc::clone(cluster), pool })
    }

    async fn publish(&self, bus: &Bus) -> anyhow::Result<()> {
        let count = usize::try_from(self.count)?;
        let (callers, size) = match self.against {
            Against::Threaded | Against::Handle => (CALLERS, 1_000),
            Against::Waiting(callers) => (callers, 1),
        };
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (bus, pool, next) = (bus.clone(), Arc::clone(&self.pool), Arc::clone(&next));
            tasks.spawn(async move {
                loop {
                    let from = next.fetch_add(size, Ordering::Relaxed);
                    if from >= count {
                        return anyhow::Ok(());
                    }
                    if size == 1 {
                        bus.publish(&pool[from % pool.len()]).await?;
                    } else {
                        let batch = from..(from + size).min(count);
                        bus.publish_all(batch.map(|at| &pool[at % pool.len()])).await?;
                    }
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Makes a topic, lets others than our side publish to it, counts what is stored and removes it.
    pub(crate) fn stored(
        &self,
        run: impl FnOnce(&Runtime, &str) -> anyhow::Result<Cost>,
    ) -> anyhow::Result<Cost> {
        let (prefix, runtime) = (self.cluster.prefix(), runtime()?);
        runtime.block_on(async {
            self.cluster.open(&prefix).await?.0.close().await.map_err(anyhow::Error::from)
        })?;
        let cost = run(&runtime, &Cluster::topic(&prefix))?;
        runtime.block_on(self.cluster.verify_and_remove(&prefix, self.count))?;
        Ok(cost)
    }
}

impl Row for Publishing {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        match self.against {
            Against::Threaded => format!(
                "{CALLERS} callers, publish_all of 1,000; against ThreadedProducer, the same headers and encoding, one thread"
            ),
            Against::Handle => format!(
                "{CALLERS} callers, publish_all of 1,000; against librdkafka by a topic handle, the same headers and \
                 encoding, one thread"
            ),
            Against::Waiting(callers) => format!(
                "{callers} callers await each publish; against ThreadedProducer, as many callers that wait for a report each"
            ),
        }
    }

    fn bar(&self) -> Option<(By, f64)> {
        self.bar.map(|bar| (By::Cpu, bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let prefix = self.cluster.prefix();
        runtime()?.block_on(async {
            let (log, bus) = self.cluster.open(&prefix).await?;
            let stopwatch = Stopwatch::start();
            self.publish(&bus).await?;
            let cost = stopwatch.stop(self.count);
            log.close().await?;
            self.cluster.verify_and_remove(&prefix, self.count).await?;
            Ok(cost)
        })
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let (config, environment) = (self.cluster.producing(), &self.cluster.environment);
        self.stored(|runtime, topic| {
            let stopwatch = Stopwatch::start();
            match self.against {
                Against::Threaded => wrapped::publish(&config, topic, &self.pool, self.count, environment)?,
                Against::Handle => direct::publish(&config, topic, &self.pool, self.count, environment)?,
                Against::Waiting(callers) => {
                    let producer = wrapped::Awaited::new(&config)?;
                    let count = usize::try_from(self.count)?;
                    runtime.block_on(producer.many(topic, &self.pool, count, callers, environment))?;
                }
            }
            Ok(stopwatch.stop(self.count))
        })
    }

    fn remark(&self) -> String {
        format!("{PARTITIONS} partitions, keys by Zipf 1.0 over 10,000, idempotent, linger 0, lz4")
    }
}
