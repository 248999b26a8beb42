//! Apps of this very process on a log of their own: what needs a hand on the log's client or on the handlers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use aqueduct::{App, Bus, Config, Database, Status, Subscription, TopicName, core::log::TopicSpec};
use tokio::{sync::oneshot, task::JoinHandle};

use super::stage::Stage;
use crate::{
    consume::{self, Fates, Role, Work, readiness},
    event::{ECHOES, MOVES, Moved},
    publish::Publisher,
    sink::Sink,
    spy::{Spy, Watch},
};

/// How long an app may take to drain, in milliseconds.
const DRAIN: u64 = 2_000;

/// A log, and who publishes to it.
pub(crate) struct Inside {
    pub(crate) bus: Bus,
    pub(crate) sink: Sink,
    publisher: Publisher,
    published: u64,
}

impl Inside {
    pub(crate) async fn open(stage: &Stage, partitions: u32) -> anyhow::Result<Self> {
        let sink = Sink::file(&stage.seen.join("inside.jsonl"), "inside")?;
        let bus = aqueduct::connect(&stage.url(&format!("partitions={partitions}"))).await?;
        for topic in [MOVES, ECHOES] {
            bus.log().ensure_topic(TopicSpec::new(TopicName::new(topic)?)).await?;
        }
        let publisher = Publisher::new(bus.with_source("inside"), sink.clone(), "inside.1");
        Ok(Self { bus, sink, publisher, published: 0 })
    }

    /// Publishes one event of each key, in batches, and waits for them.
    pub(crate) async fn publish(&mut self, keys: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            self.published += 1;
            batch.push(Moved::new(format!("inside.1.{}", self.published), key, self.published));
            if batch.len() == 50 || keys.peek().is_none() {
                self.publisher.publish(&std::mem::take(&mut batch), false)?;
                self.publisher.take_in(4).await;
            }
        }
        self.publisher.take_in(0).await;
        Ok(())
    }

    /// Starts an app with one subscription.
    pub(crate) async fn start(
        &self,
        stage: &Stage,
        (role, group): (Role, &str),
        fates: Fates,
        change: impl FnOnce(Subscription<Work>) -> Subscription<Work>,
    ) -> anyhow::Result<Running> {
        let by = format!("{group}.1");
        let watch = Watch::new(Sink::file(&stage.seen.join(format!("{by}.jsonl")), &by)?);
        let environment = self.bus.environment().clone();
        let bus = Bus::open(Spy::on(Arc::clone(self.bus.log()), &watch), environment).await?;
        let work = Work { watch: Arc::clone(&watch), group: group.into(), fates };
        let mut config = Config::default();
        config.drain = consume::drain(DRAIN);
        let mut app = App::builder(group).log(&bus).state(work).config(config);
        if role == Role::Ledger {
            app = app.database(&Database::open(&stage.database, consume::SCHEMA).await?);
        }
        let app = app.subscribe(change(consume::subscription(role, group))).build()?;
        let status = app.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move { app.run(stopped).await });
        let told = tokio::spawn({
            let (status, watch) = (status.clone(), Arc::clone(&watch));
            async move {
                loop {
                    watch.see(readiness(&status));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
        Ok(Running { group: group.to_owned(), watch, status, stop, running, told })
    }
}

/// An app that runs.
pub(crate) struct Running {
    pub(crate) group: String,
    pub(crate) watch: Arc<Watch>,
    pub(crate) status: Status,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), aqueduct::AppError>>,
    told: JoinHandle<()>,
}

impl Running {
    /// Drains it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.told.abort();
        // Where it has ended already, its result says why.
        drop(self.stop);
        Ok(self.running.await??)
    }
}

/// Waits for a condition.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while !condition().await? {
        if started.elapsed() > within {
            bail!("{what}: not within {within:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(started.elapsed())
}
