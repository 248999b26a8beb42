//! Consuming, against librdkafka's batch queue plus decode; and handlers that sleep, against lanes written by hand.

use std::sync::Arc;

use aqueduct::{App, Bus, Event, Subscription, core::log::CommitLog, kafka::KafkaLog};
use bench::{
    consume::{handle, nothing, settled},
    events::{Keys, Sold, pool},
    harness::{By, Row},
    lanes::{by_hand, sleeps},
    measure::{Cost, Stopwatch},
    publish::runtime,
    raw::PARTITIONS,
};
use tokio::runtime::Runtime;

use crate::{cluster::Cluster, raw::direct};

/// What the handlers do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Nothing.
    Nothing,
    /// They sleep 1 ms.
    Sleep,
}

/// A topic with records that every run of a row reads, under a group of its own.
#[derive(Debug)]
struct Filled {
    runtime: Runtime,
    prefix: String,
    log: Arc<KafkaLog>,
    bus: Bus,
    runs: u32,
}

impl Filled {
    /// A group that has not read anything.
    fn group(&mut self) -> String {
        self.runs += 1;
        format!("bench-{}", self.runs)
    }
}

/// A row of consuming.
#[derive(Debug)]
pub(crate) struct Consuming {
    name: &'static str,
    pub(crate) work: Work,
    pub(crate) concurrency: usize,
    pub(crate) count: u64,
    bar: Option<f64>,
    pub(crate) cluster: Arc<Cluster>,
    filled: Option<Filled>,
}

impl Consuming {
    pub(crate) fn new(
        name: &'static str,
        work: Work,
        concurrency: usize,
        count: u64,
        bar: Option<f64>,
        cluster: &Arc<Cluster>,
    ) -> Self {
        let cluster = Arc::clone(cluster);
        Self { name, work, concurrency, count, bar, cluster, filled: None }
    }

    fn keys(&self) -> Keys {
        match self.work {
            Work::Nothing => Keys::Zipf,
            Work::Sleep => Keys::Uniform,
        }
    }

    fn filled(&mut self) -> anyhow::Result<&mut Filled> {
        let filled = match self.filled.take() {
            Some(filled) => filled,
            None => {
                let (runtime, prefix) = (runtime()?, self.cluster.prefix());
                let (log, bus) = runtime.block_on(async {
                    let (log, bus) = self.cluster.open(&prefix).await?;
                    for batch in pool(self.count, self.keys())?.chunks(4_000) {
                        bus.publish_all(batch).await?;
                    }
                    anyhow::Ok((log, bus))
                })?;
                Filled { runtime, prefix, log, bus, runs: 0 }
            }
        };
        Ok(self.filled.insert(filled))
    }

    /// Lets another program read the topic, which it gets with a new group by their names in the cluster; that group must have
    /// settled everything.
    pub(crate) fn apart(
        &mut self,
        run: impl FnOnce(&str, &str) -> anyhow::Result<Cost>,
    ) -> anyhow::Result<Cost> {
        let filled = self.filled()?;
        let group = filled.group();
        let cost = run(&Cluster::topic(&filled.prefix), &format!("{}{group}", filled.prefix))?;
        filled.runtime.block_on(settled(&*filled.log, &group, Sold::INFO.topic))?;
        Ok(cost)
    }
}

impl Row for Consuming {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        let concurrency = self.concurrency;
        match self.work {
            Work::Nothing => format!(
                "an app with one typed handler that does nothing, concurrency {concurrency}, joining and settling \
                 included; against librdkafka's batch queue and decode, one thread"
            ),
            Work::Sleep => format!(
                "a handler that sleeps 1 ms, by key, 10,000 keys, concurrency {concurrency}, settling safely; against \
                 lanes written by hand with the same reader, decoder and sleep, settling nothing"
            ),
        }
    }

    fn bar(&self) -> Option<(By, f64)> {
        let by = match self.work {
            Work::Nothing => By::Cpu,
            Work::Sleep => By::Rate,
        };
        self.bar.map(|bar| (by, bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let (count, concurrency, work) = (self.count, self.concurrency, self.work);
        let filled = self.filled()?;
        let group = filled.group();
        let subscription = Subscription::builder(&group).concurrency(concurrency);
        let subscription = match work {
            Work::Nothing => subscription.on(nothing),
            Work::Sleep => subscription.on(sleeps),
        };
        filled.runtime.block_on(async {
            let app = App::builder("bench").log(&filled.bus).subscribe(subscription).build()?;
            let cost = handle(app, count).await?;
            settled(&*filled.log, &group, Sold::INFO.topic).await?;
            Ok(cost)
        })
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let (count, concurrency, config) = (self.count, self.concurrency, self.cluster.reading());
        let work = self.work;
        let filled = self.filled()?;
        match work {
            Work::Nothing => {
                let topic = Cluster::topic(&filled.prefix);
                let stopwatch = Stopwatch::start();
                direct::consume(&config, &topic, PARTITIONS, count, |event| {
                    std::hint::black_box(event);
                })?;
                Ok(stopwatch.stop(count))
            }
            Work::Sleep => filled.runtime.block_on(by_hand(Arc::clone(&filled.log) as _, concurrency, count)),
        }
    }

    fn remark(&self) -> String {
        match self.work {
            Work::Nothing => format!("{PARTITIONS} partitions, keys by Zipf 1.0 over 10,000"),
            Work::Sleep => {
                format!("bound {} events/s by concurrency and sleep alone", self.concurrency * 1_000)
            }
        }
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        let Some(Filled { runtime, prefix, log, .. }) = self.filled.take() else { return };
        let removed = runtime.block_on(async {
            log.close().await?;
            self.cluster.remove(&prefix).await
        });
        // The broker is the bench's own, and ends with it.
        if let Err(error) = removed {
            eprintln!("the topic of {} was not removed: {error:#}", self.name);
        }
    }
}
