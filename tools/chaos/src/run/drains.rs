//! Consumers that are asked to end under load.

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

const DRAINS: u64 = 100;
const ROLES: [Role; 2] = [Role::Ledger, Role::Audit];

pub(crate) fn run(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    let stage = Stage::new(dir)?;
    let url = stage.url("partitions=8&session=5s");
    let mut publishers =
        ["p1", "p2"].map(|name| Slot::publisher(name, random.next(), "--rate 100 --keys 100"));
    for publisher in &mut publishers {
        publisher.start(&stage, &url)?;
    }
    let watcher = stage.watch()?;
    let mut slots = Vec::new();
    for number in 1..=MEMBERS {
        // Some handlers outlast the deadline; not those in a transaction, which would hold up all who share the database.
        slots.push((Slot::consumer(Role::Ledger, number, "--slow 4 --slow-ms 20"), Turn::Ended));
        slots.push((Slot::consumer(Role::Audit, number, "--slow 60 --slow-ms 1500"), Turn::Ended));
    }
    let mut drains = 0;
    while drains < DRAINS || slots.iter().any(|(_, turn)| matches!(turn, Turn::Drains)) {
        for (slot, turn) in &mut slots {
            match *turn {
                Turn::Ended if drains < DRAINS => {
                    slot.start(&stage, &url)?;
                    *turn = Turn::Starts;
                }
                Turn::Starts if slot.runs(&stage) => {
                    *turn = Turn::RunsUntil(Instant::now() + random.millis(100, 900));
                }
                Turn::RunsUntil(until) if drains < DRAINS && until <= Instant::now() => {
                    slot.check()?;
                    slot.drain(&stage)?;
                    drains += 1;
                    *turn = Turn::Drains;
                }
                Turn::Drains if slot.drained(&stage)? => *turn = Turn::Ended,
                _ => {}
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    for publisher in &mut publishers {
        publisher.check()?;
        publisher.drain(&stage)?;
        publisher.wait_drained(&stage)?;
    }
    for (slot, turn) in &mut slots {
        if *turn == Turn::Ended {
            slot.start(&stage, &url)?;
        }
    }
    let caught_up = stage.catch_up(&ROLES, Duration::from_secs(60))?;
    for (slot, _) in &mut slots {
        slot.check()?;
        slot.drain(&stage)?;
        slot.wait_drained(&stage)?;
    }
    watcher.stop()?;
    stage.read()?;
    let at_least = [("drains", DRAINS), ("acknowledged", 1_000), ("effects", 500)];
    let at_least = at_least.map(|(name, least)| (name.to_owned(), least)).into();
    let report = stage.judge(&Rules { at_least, ..rules(&ROLES) })?;
    Ok(super::alive(report, caught_up, format!("{drains} drains under load")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Starts,
    RunsUntil(Instant),
    Drains,
    Ended,
}
