//! Three brokers behind a proxy, publishers, and two groups of three processes: all of them harmed at random, in storms
//! with calms between.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use checker::Rules;

use super::{
    Judged, MEMBERS,
    brokers::Brokers,
    cluster::Cluster,
    play::{Play, ROLES, Times},
    roster::Slot,
    stage::{Stage, rules},
};
use crate::{consume::Role, random::Random};

/// The third goes from topic to topic, exactly once.
const WITH_MIRROR: [Role; 3] = [Role::Ledger, Role::Audit, Role::Mirror];

/// The session is what brokers allow at least.
const TIMES: Times =
    Times { session: 6_000, after: Duration::from_secs(10), liveness: Duration::from_secs(120) };

/// After so long a storm there is a calm: only in that are repeats, refusals and standstills seen that no fault excuses.
const STORM: Duration = Duration::from_secs(120);
const CALM: Duration = Duration::from_secs(30);

/// How much is to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) length: Duration,
    /// Who consumes. Two processes of the third share the brokers with all others: where the machine is at its limit already,
    /// there is none.
    roles: &'static [Role],
    /// Events a second that publishers try to publish while nothing is wrong with them.
    rate: u64,
    /// Of 100,000 deliveries, how many fail until they are healed: a longer run has enough of them with fewer.
    poison: u64,
    /// Events to be acknowledged, at least.
    events: u64,
    /// Of each kind of harm, at least.
    broker_kills: u64,
    consumer_kills: u64,
    pauses: u64,
    dropped: u64,
}

impl Form {
    /// One storm, for the test command. It may be short of pauses, as chance has it.
    pub(crate) const MINUTE: Self = Self {
        length: Duration::from_secs(45),
        roles: &WITH_MIRROR,
        rate: 660,
        poison: 60,
        events: 4_000,
        broker_kills: 1,
        consumer_kills: 1,
        pauses: 0,
        dropped: 3,
    };

    pub(crate) const SHORT: Self = Self {
        length: Duration::from_secs(360),
        roles: &ROLES,
        rate: 6_000,
        poison: 8,
        events: 1_000_000,
        broker_kills: 12,
        consumer_kills: 20,
        pauses: 10,
        dropped: 60,
    };

    /// Each event leaves some ten observations, which the checker holds all at once.
    pub(crate) fn minutes(minutes: u64) -> Self {
        Self {
            length: Duration::from_secs(60 * minutes),
            roles: &WITH_MIRROR,
            rate: 330,
            poison: 20,
            events: 5_000 * minutes,
            broker_kills: minutes,
            consumer_kills: 2 * minutes,
            pauses: minutes,
            dropped: 6 * minutes,
        }
    }
}

pub(crate) fn run(dir: &Path, cluster: Cluster, mut random: Random, form: Form) -> anyhow::Result<Judged> {
    let mut brokers = Brokers::new(&cluster, TIMES.after)?;
    let mut stage = Stage::new(dir)?.on(cluster);
    stage.roles = form.roles;
    let url = stage.url("partitions=8");
    let mut slots = Vec::new();
    // A publish has 3.6 events in the mean, and there are two publishers.
    let rate = form.rate * 10 / 36 / 2;
    for name in ["p1", "p2"] {
        let words = format!("--rate {rate} --keys 1000 --repeat --in-flight 512 --failures 1000000");
        slots.push(Slot::publisher(name, random.next(), &words));
    }
    let failing = format!("--slow 2 --slow-ms 60 --poison {}", form.poison);
    for number in 1..=MEMBERS {
        for role in form.roles.iter().filter(|role| **role != Role::Mirror || number < MEMBERS) {
            slots.push(Slot::consumer(*role, number, &failing));
        }
    }
    let watcher = stage.watch()?;
    let mut play = Play::start(&stage, slots, url, TIMES)?;
    let began = Instant::now();
    let mut next = [2_000, 1_000, 3_000].map(|millis| began + Duration::from_millis(millis));
    while began.elapsed() < form.length {
        play.go(&stage)?;
        brokers.go(&mut stage)?;
        let now = Instant::now();
        let storm = now.duration_since(began).as_millis() % (STORM + CALM).as_millis() < STORM.as_millis();
        if !storm {
            brokers.calm();
        }
        if next[0] <= now {
            next[0] = now + random.millis(1_000, if storm { 4_500 } else { 12_000 });
            match storm {
                true => play.harm(&mut stage, &mut random)?,
                false => play.drain(&stage, &mut random)?,
            }
        }
        if storm && next[1] <= now {
            next[1] = now + random.millis(300, 3_000);
            brokers.disturb(&mut stage, &mut random)?;
        }
        if storm && next[2] <= now {
            next[2] = now + random.millis(500, 2_000);
            brokers.harm(&mut stage, &mut random)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    brokers.calm();
    while !brokers.go(&mut stage)? {
        play.go(&stage)?;
        thread::sleep(Duration::from_millis(5));
    }
    let caught_up = play.heal(&stage)?;
    watcher.stop()?;
    stage.read()?;
    let report = stage.judge(&Rules {
        released: true,
        repeating: super::stops(),
        blocking: blocking(),
        at_least: at_least(form),
        ..rules(form.roles)
    })?;
    Ok(super::alive(report, caught_up, "healed".to_owned()))
}

/// What may keep a process from leaving in time: it waits for a lock, or for brokers.
fn blocking() -> std::collections::BTreeSet<String> {
    let network = ["broker kill", "broker pause", "rolling restart", "leader move", "cut", "silence"];
    let network = network.into_iter().chain(["dropped response"]).map(str::to_owned);
    super::stops().into_iter().chain(network).collect()
}

fn at_least(form: Form) -> BTreeMap<String, u64> {
    let Form { events, broker_kills, consumer_kills, pauses, dropped, .. } = form;
    let least = [
        ("acknowledged", events),
        ("effects", events / 2),
        ("fault broker kill", broker_kills),
        ("fault broker pause", broker_kills / 6),
        ("fault rolling restart", broker_kills / 8),
        ("fault leader move", broker_kills / 8),
        // Publishers are killed too.
        ("fault kill", consumer_kills * 5 / 4),
        ("fault long pause", pauses),
        ("fault dropped response", dropped),
        ("fault cut", dropped / 12),
        ("fault silence", dropped / 12),
        ("drains", consumer_kills / 4),
        ("rebalances", 8 * consumer_kills),
        ("retries", events / 100),
        ("parked", broker_kills),
        ("releases", broker_kills),
        ("samples", 10 * dropped),
        ("ready", 10 * dropped),
    ];
    least.map(|(name, least)| (name.to_owned(), least)).into()
}
