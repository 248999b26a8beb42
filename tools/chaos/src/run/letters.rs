//! Outages of the dead-letter topic: while it is out of reach nothing is settled past what belongs there.

use std::{path::Path, sync::Arc, time::Duration};

use aqueduct::OnFailure;
use checker::{Kind, Observation, Rules, Verdict};

use super::{
    Judged,
    inside::{Inside, until},
    stage::{Stage, rules},
};
use crate::{
    consume::{Fate, Fates, Role},
    event::hash,
    random::Random,
};

const OUTAGES: u64 = 10;
const ROLES: [Role; 1] = [Role::Audit];

pub(crate) fn run(dir: &Path, random: Random) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let watcher = stage.watch()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (caught_up, quiet) = runtime.block_on(play(&mut stage, random))?;
    watcher.stop()?;
    stage.read()?;
    let at_least = [("letters", 10 * OUTAGES), ("fault letters", OUTAGES), ("samples", 4 * OUTAGES)];
    let at_least = at_least.map(|(name, least)| (name.to_owned(), least)).into();
    let mut report = stage.judge(&Rules { at_least, ..rules(&ROLES) })?;
    if quiet > 0 {
        let what = format!(
            "in {quiet} of {OUTAGES} outages of the dead-letter topic no partition said that it waits"
        );
        report.verdicts.push(Verdict { kind: Kind::LyingReadiness, what });
    }
    Ok(super::alive(report, caught_up, format!("{OUTAGES} outages of the dead-letter topic")))
}

async fn play(stage: &mut Stage, mut random: Random) -> anyhow::Result<(Result<Duration, i64>, u64)> {
    let mut inside = Inside::open(stage, 4).await?;
    // Every eighth event is no good; its letter carries the time of its writing.
    let fates: Fates =
        Arc::new(|id, _, _| if hash(id).is_multiple_of(8) { Fate::Terminal } else { Fate::Done });
    let letters = |subscription: aqueduct::Subscription<_>| subscription.then(OnFailure::DeadLetter);
    let app = inside.start(stage, (Role::Audit, Role::Audit.group()), fates, letters).await?;
    let mut quiet = 0;
    for _ in 0..OUTAGES {
        inside.publish((0..100).map(|_| format!("k{}", random.below(50)))).await?;
        let fault = stage.fault("letters", "audit");
        app.watch.refuse(Some(".dead"));
        inside.publish((0..200).map(|_| format!("k{}", random.below(50)))).await?;
        let says = until("a partition says that it waits", Duration::from_secs(5), async || {
            let subscriptions = app.status.subscriptions();
            Ok(subscriptions.iter().flat_map(|one| one.partitions.values()).any(|one| one.waiting.is_some()))
        });
        quiet += u64::from(says.await.is_err());
        // The observer samples ten times a second.
        tokio::time::sleep(random.millis(400, 900)).await;
        app.watch.refuse(None);
        stage.sink.see(Observation::Healed { fault });
    }
    let caught_up = tokio::task::block_in_place(|| stage.catch_up(&ROLES, Duration::from_secs(60)))?;
    app.end().await?;
    inside.bus.log().close().await?;
    Ok((caught_up, quiet))
}
