//! Consumers that are stopped past their session, and woken: what they write then must be void.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use checker::Rules;

use super::{
    Judged, MEMBERS,
    roster::Slot,
    stage::{Stage, rules},
};
use crate::{consume::Role, random::Random};

const PAUSES: u64 = 20;
/// The session timeout of members, in milliseconds.
const SESSION: u64 = 1_000;
const ROLES: [Role; 2] = [Role::Ledger, Role::Audit];

pub(crate) fn run(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let url = stage.url(&format!("partitions=8&session={SESSION}ms"));
    let mut publishers = ["p1", "p2"].map(|name| Slot::publisher(name, random.next(), "--rate 60 --keys 40"));
    for publisher in &mut publishers {
        publisher.start(&stage, &url)?;
    }
    let watcher = stage.watch()?;
    let mut groups: Vec<Vec<Slot>> =
        ROLES.iter().map(|role| (1..=MEMBERS).map(|n| Slot::consumer(*role, n, "")).collect()).collect();
    for slot in groups.iter_mut().flatten() {
        slot.start(&stage, &url)?;
    }
    thread::sleep(Duration::from_millis(1_500));
    let mut pauses = 0;
    while pauses < PAUSES {
        // One member of each group at a time, so that there is one to take over.
        let mut paused = Vec::new();
        for slots in &mut groups {
            let index = usize::try_from(random.below(u64::try_from(slots.len())?))?;
            let slot = &mut slots[index];
            slot.check()?;
            if let Some(process) = &slot.process {
                let fault = stage.fault("pause", &process.by);
                process.pause()?;
                pauses += 1;
                paused.push((slot, fault, Instant::now() + random.millis(SESSION + 200, 2 * SESSION + 500)));
            }
        }
        paused.sort_by_key(|(_, _, until)| *until);
        let mut faults = Vec::new();
        for (slot, fault, until) in paused {
            thread::sleep(until.saturating_duration_since(Instant::now()));
            if let Some(process) = &slot.process {
                process.go_on()?;
            }
            faults.push(fault);
        }
        // It finds out, joins anew, and the group is whole again.
        thread::sleep(random.millis(600, 1_200));
        for fault in faults {
            stage.healed(fault);
        }
    }
    for publisher in &mut publishers {
        publisher.check()?;
        publisher.drain(&stage)?;
        publisher.wait_drained(&stage)?;
    }
    let caught_up = stage.catch_up(&ROLES, Duration::from_secs(60))?;
    for slot in groups.iter_mut().flatten() {
        slot.check()?;
        slot.drain(&stage)?;
        slot.wait_drained(&stage)?;
    }
    watcher.stop()?;
    stage.read()?;
    let at_least = [("fault pause", PAUSES), ("acknowledged", 1_000), ("effects", 500), ("samples", 300)];
    let report = stage.judge(&Rules {
        // A database whose lock a stopped process holds takes nothing.
        repeating: ["pause".to_owned()].into(),
        at_least: at_least.map(|(name, least)| (name.to_owned(), least)).into(),
        ..rules(&ROLES)
    })?;
    Ok(super::alive(report, caught_up, format!("{pauses} pauses")))
}
