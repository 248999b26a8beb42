//! The operator: releases parked keys until none is left.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use aqueduct::{Bus, TopicName};
use aqueduct_runtime::{parked, release};
use checker::Observation;
use clap::Args;

use crate::{consume::Role, sink::Sink};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log's URL.
    #[arg(long)]
    log: String,
    /// The folder of observations.
    #[arg(long)]
    out: PathBuf,
    /// The name of this process.
    #[arg(long)]
    by: String,
    /// Whose keys.
    #[arg(long)]
    role: Vec<Role>,
    /// Gives up after so many seconds.
    #[arg(long)]
    within: u64,
}

/// A key is asked for again after this long: its owner may have been killed, and a failure ends a release.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let sink = Sink::file(&options.out.join(format!("{}.jsonl", options.by)), &options.by)?;
    let bus = aqueduct::connect(&options.log).await?;
    let left = all(&bus, &sink, &options.role, Duration::from_secs(options.within)).await?;
    bus.log().close().await?;
    ensure!(left == 0, "{left} keys are still parked");
    Ok(())
}

/// Releases all parked keys of these groups until none is left, and says how many are where the time is over.
pub(crate) async fn all(bus: &Bus, sink: &Sink, roles: &[Role], within: Duration) -> anyhow::Result<usize> {
    let started = Instant::now();
    let mut asked = HashMap::new();
    loop {
        let mut left = 0;
        for role in roles {
            for name in role.topics() {
                let topic = TopicName::new(name)?;
                for key in parked(bus, role.group(), &topic).await? {
                    left += 1;
                    let of = (role.group(), *name, key.key.clone());
                    if asked.get(&of).is_some_and(|at: &Instant| at.elapsed() < AGAIN) {
                        continue;
                    }
                    asked.insert(of, Instant::now());
                    release(bus, role.group(), &key.partition, &key.key).await?;
                    sink.see(Observation::Release {
                        group: role.group().to_owned(),
                        topic: (*name).to_owned(),
                        key: String::from_utf8_lossy(&key.key).into_owned(),
                    });
                }
            }
        }
        if left == 0 || started.elapsed() > within {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
