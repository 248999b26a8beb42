//! A thousand parked keys, released while their events go on coming: none overtakes another.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct::TopicName;
use aqueduct_runtime::parked;
use checker::Rules;

use super::{
    Judged,
    inside::{Inside, until},
    stage::{Stage, rules},
};
use crate::{
    consume::{Fate, Fates, Role},
    event::{MOVES, hash},
    random::Random,
    release,
};

const KEYS: u64 = 1_000;
const HEALTHY: u64 = 200;
const ROLES: [Role; 2] = [Role::Ledger, Role::Audit];
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(dir: &Path, random: Random) -> anyhow::Result<Judged> {
    let stage = Stage::new(dir)?;
    let watcher = stage.watch()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let caught_up = runtime.block_on(play(&stage, random))?;
    watcher.stop()?;
    stage.read()?;
    let least = 2 * KEYS;
    let at_least = [("parked", 2 * least), ("releases", least), ("effects", 4 * KEYS), ("still parked", 0)];
    let report = stage.judge(&Rules {
        released: true,
        at_least: at_least.map(|(name, least)| (name.to_owned(), least)).into(),
        ..rules(&ROLES)
    })?;
    Ok(super::alive(report, caught_up, format!("{KEYS} parked keys of each of two groups")))
}

/// Failing keys and healthy ones, mixed.
fn keys(random: &mut Random) -> Vec<String> {
    let mut keys: Vec<_> = (0..KEYS).map(|number| format!("bad-{number}")).collect();
    keys.extend((0..HEALTHY).map(|number| format!("good-{number}")));
    keys.sort_by_cached_key(|_| random.next());
    keys
}

async fn play(stage: &Stage, mut random: Random) -> anyhow::Result<Result<Duration, i64>> {
    let mut inside = Inside::open(stage, 4).await?;
    let healed = Arc::new(AtomicBool::new(false));
    let fates: Fates = Arc::new({
        let healed = Arc::clone(&healed);
        move |id, key, _| match (key.starts_with("bad") && !healed.load(Ordering::Acquire), hash(id) % 2) {
            (false, _) => Fate::Done,
            (true, 0) => Fate::Fails,
            (true, _) => Fate::Terminal,
        }
    });
    let mut apps = Vec::new();
    for role in ROLES {
        apps.push(inside.start(stage, (role, role.group()), Arc::clone(&fates), |same| same).await?);
    }
    let moves = TopicName::new(MOVES)?;
    let all = usize::try_from(KEYS)?;
    for _ in 0..2 {
        inside.publish(keys(&mut random)).await?;
    }
    until("all keys are parked with both events", PATIENCE, async || {
        // Healthy keys go on, which shows that the handlers work.
        inside.publish((0..4).map(|number| format!("good-{number}"))).await?;
        for role in ROLES {
            let parked = parked(&inside.bus, role.group(), &moves).await?;
            if parked.len() < all || parked.iter().any(|key| key.records < 2) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;
    healed.store(true, Ordering::Release);
    let (bus, sink) = (inside.bus.clone(), inside.sink.clone());
    let releasing = tokio::spawn(async move { release::all(&bus, &sink, &ROLES, PATIENCE).await });
    // They join keys that wait, that are being released, and that are live again.
    for _ in 0..4 {
        inside.publish(keys(&mut random)).await?;
    }
    let left = releasing.await??;
    anyhow::ensure!(left == 0, "{left} keys are still parked");
    inside.publish(keys(&mut random)).await?;
    let caught_up = tokio::task::block_in_place(|| stage.catch_up(&ROLES, PATIENCE))?;
    for app in apps {
        app.end().await?;
    }
    inside.bus.log().close().await?;
    Ok(caught_up)
}
