//! Twelve planted stalls, all at once: each is seen in the status within 30 s, under its name, and no other is.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct::{OnFailure, Status};
use checker::{Kind, Report, Rules, Verdict};

use super::{
    Judged,
    inside::{Inside, Running, until},
    stage::{Stage, rules},
};
use crate::{
    consume::{Fate, Fates, Role},
    random::Random,
};

/// What is planted, three times each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    /// A key whose delivery never ends, while others go on.
    Key,
    /// Something that every delivery needs does not answer.
    Outage,
    /// A partition that stopped itself.
    Stopped,
    /// A client that gives errors alone, or nothing at all.
    Client,
}

const PLANTS: [Plant; 4] = [Plant::Key, Plant::Outage, Plant::Stopped, Plant::Client];
const EACH: usize = 3;
const WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run(dir: &Path, _: Random) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let watcher = stage.watch()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (verdicts, note) = runtime.block_on(play(&mut stage))?;
    watcher.stop()?;
    stage.read()?;
    let at_least = [("ready", 200), ("fault stall", 12)].map(|(name, least)| (name.to_owned(), least)).into();
    // What stands, stands: only what the apps say of it, and what they settled, is judged.
    let mut report: Report = stage.judge(&Rules { healed: false, at_least, ..rules(&[]) })?;
    report.verdicts.extend(verdicts);
    Ok(Judged { report, note })
}

struct Planted {
    plant: Plant,
    app: Running,
    seen: Option<Duration>,
}

async fn play(stage: &mut Stage) -> anyhow::Result<(Vec<Verdict>, String)> {
    // One partition, so that a key and its neighbours share it.
    let mut inside = Inside::open(stage, 1).await?;
    let mut planted = Vec::new();
    for plant in PLANTS {
        for number in 1..=EACH {
            let group = format!("{plant:?}-{number}").to_lowercase();
            let on_failure = if plant == Plant::Stopped { OnFailure::Stop } else { OnFailure::Park };
            let app = inside.start(stage, (Role::Audit, &group), fates(plant), |subscription| {
                // A window that the neighbours of a key do not fill meanwhile.
                subscription.then(on_failure).window(4_096)
            });
            planted.push(Planted { plant, app: app.await?, seen: None });
        }
    }
    let well: Fates = Arc::new(|_, _, _| Fate::Done);
    let control = inside.start(stage, (Role::Audit, "control"), well, |same| same).await?;
    until("all have joined", Duration::from_secs(30), async || {
        inside.publish(["warm".to_owned()]).await?;
        let joined = |status: &Status| status.subscriptions().iter().all(|one| one.joined && one.ended > 0);
        Ok(planted.iter().map(|each| &each.app).chain([&control]).all(|app| joined(&app.status)))
    })
    .await?;
    for each in &planted {
        stage.fault("stall", &each.app.group);
        match (each.plant, each.app.group.ends_with('3')) {
            (Plant::Client, true) => each.app.watch.fall_silent(),
            (Plant::Client, false) => each.app.watch.die(),
            _ => {}
        }
    }
    let started = Instant::now();
    inside.publish(["ill".to_owned()]).await?;
    let mut false_alarms = 0;
    while started.elapsed() < WITHIN && planted.iter().any(|each| each.seen.is_none()) {
        // Others go on.
        inside.publish((0..4).map(|number| format!("k{number}"))).await?;
        for each in planted.iter_mut().filter(|each| each.seen.is_none()) {
            each.seen = shows(&each.app.status, each.plant).then(|| started.elapsed());
        }
        let status = &control.status;
        let alarm = !status.readiness().ready || PLANTS.iter().any(|plant| shows(status, *plant));
        false_alarms += u64::from(alarm);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut verdicts = Vec::new();
    let mut find = |what| verdicts.push(Verdict { kind: Kind::LyingReadiness, what });
    for each in &planted {
        let says = || format!("{:?}", each.app.status.subscriptions());
        match each.seen {
            None => find(format!("{} was not seen within {WITHIN:?}: {}", each.app.group, says())),
            // A key that is named while others go on leaves the app ready.
            Some(_) if (each.plant == Plant::Key) != each.app.status.readiness().ready => {
                find(format!("{}: ready {}: {}", each.app.group, each.plant != Plant::Key, says()));
            }
            Some(_) => {}
        }
    }
    if false_alarms > 0 {
        find(format!("the healthy group gave {false_alarms} false alarms"));
    }
    let seen = planted.iter().filter_map(|each| each.seen);
    let note = format!(
        "{} of {} stalls seen, the last after {:.1} s",
        seen.clone().count(),
        planted.len(),
        seen.max().unwrap_or_default().as_secs_f64()
    );
    for each in planted {
        each.app.end().await?;
    }
    control.end().await?;
    inside.bus.log().close().await?;
    Ok((verdicts, note))
}

fn fates(plant: Plant) -> Fates {
    Arc::new(move |_, key, _| match plant {
        Plant::Key if key == "ill" => Fate::Sleeps(Duration::from_secs(3_600)),
        Plant::Stopped if key == "ill" => Fate::Terminal,
        // From then on nothing works.
        Plant::Outage if key != "warm" => Fate::Fails,
        _ => Fate::Done,
    })
}

/// Whether a status names this stall.
fn shows(status: &Status, plant: Plant) -> bool {
    use aqueduct_runtime::StallKind;
    status.subscriptions().iter().any(|one| {
        let has = |kind| {
            one.partitions.values().any(|at| at.stall.as_ref().is_some_and(|stall| stall.kind == kind))
        };
        match plant {
            Plant::Key => has(StallKind::Key),
            Plant::Outage => has(StallKind::Outage),
            Plant::Stopped => has(StallKind::Stopped),
            Plant::Client => one.client.is_some() || has(StallKind::Client),
        }
    })
}
