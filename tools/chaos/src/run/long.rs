//! Everything at once, for as long as is wanted: two publishers, two groups, kills, pauses, drains.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use checker::Rules;

use super::{
    Judged, MEMBERS,
    play::{Play, ROLES, Times},
    roster::Slot,
    stage::{Stage, rules},
};
use crate::random::Random;

const TIMES: Times =
    Times { session: 2_000, after: Duration::from_secs(6), liveness: Duration::from_secs(60) };

pub(crate) fn run(dir: &Path, mut random: Random, length: Duration) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let url = stage.url(&format!("partitions=8&session={}ms", TIMES.session));
    let mut slots = Vec::new();
    for name in ["p1", "p2"] {
        slots.push(Slot::publisher(name, random.next(), "--rate 60 --keys 60 --repeat"));
    }
    for number in 1..=MEMBERS {
        for role in ROLES {
            slots.push(Slot::consumer(role, number, "--slow 10 --slow-ms 60 --poison 40"));
        }
    }
    let watcher = stage.watch()?;
    let mut play = Play::start(&stage, slots, url, TIMES)?;
    let end = Instant::now() + length;
    let mut next = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        play.go(&stage)?;
        if next <= Instant::now() {
            next = Instant::now() + random.millis(200, 2_500);
            play.harm(&mut stage, &mut random)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let caught_up = play.heal(&stage)?;
    watcher.stop()?;
    stage.read()?;
    let minutes = length.as_secs() / 60;
    let at_least = [
        ("fault kill", 10 * minutes),
        ("fault long pause", 4 * minutes),
        ("fault pause", minutes),
        ("drains", 5 * minutes),
        ("acknowledged", 5_000 * minutes),
        ("effects", 5_000 * minutes),
        ("retries", 50 * minutes),
        ("rebalances", 50 * minutes),
        ("duplicates", minutes),
        ("parked", 10 * minutes),
        ("releases", 5 * minutes),
        ("samples", 500 * minutes),
        ("ready", 100 * minutes),
    ];
    let report = stage.judge(&Rules {
        released: true,
        repeating: super::stops(),
        blocking: super::stops(),
        at_least: at_least.map(|(name, least)| (name.to_owned(), least)).into(),
        ..rules(&ROLES)
    })?;
    Ok(super::alive(report, caught_up, "healed".to_owned()))
}
