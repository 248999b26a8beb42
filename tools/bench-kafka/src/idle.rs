//! What a subscription costs that has nothing to do.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct::{
    App, Bus, Event, Subscription, TopicName,
    core::log::{CommitLog, TopicSpec},
};
use bench::{
    consume::nothing,
    events::Sold,
    measure::{Cost, Stopwatch},
    publish::runtime,
};

use crate::cluster::Cluster;

const PARTITIONS: i32 = 300;
/// Until the group has settled down.
const REST: Duration = Duration::from_secs(10);
/// At most this share of a core.
const BAR: f64 = 0.01;

/// What it came to.
#[derive(Debug)]
pub(crate) struct Idle(Cost);

impl Idle {
    fn share(&self) -> f64 {
        self.0.cpu / self.0.wall
    }

    pub(crate) fn met(&self) -> bool {
        self.share() <= BAR
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nidle: an app that reads {PARTITIONS} partitions in which nothing happens")?;
        writeln!(f, "  {:.2} % of a core over {:.0} s, all threads", self.share() * 100.0, self.0.wall)?;
        let met = if self.met() { "met" } else { "MISSED" };
        writeln!(f, "  bar     at most {:.0} %: {met}", BAR * 100.0)
    }
}

pub(crate) fn measure(cluster: &Arc<Cluster>, quick: bool) -> anyhow::Result<Idle> {
    let watched = Duration::from_secs(if quick { 10 } else { 60 });
    let prefix = cluster.prefix();
    runtime()?.block_on(async {
        let log = cluster.log(&prefix, PARTITIONS).await?;
        log.ensure_topic(TopicSpec::new(TopicName::new(Sold::INFO.topic)?)).await?;
        let bus = Bus::open(Arc::clone(&log) as Arc<dyn CommitLog>, cluster.environment.clone()).await?;
        let app =
            App::builder("idle").log(&bus).subscribe(Subscription::builder("idle").on(nothing)).build()?;
        let mut cost = None;
        app.run(async {
            tokio::time::sleep(REST).await;
            let stopwatch = Stopwatch::start();
            tokio::time::sleep(watched).await;
            cost = Some(stopwatch.stop(0));
        })
        .await?;
        log.close().await?;
        cluster.remove(&prefix).await?;
        cost.map(Idle).ok_or_else(|| anyhow::anyhow!("the app ended by itself"))
    })
}
