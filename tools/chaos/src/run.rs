//! The scenarios: each starts processes, does harm of one kind, and lets the checker decide.

mod brokers;
mod cluster;
mod damage;
mod drains;
mod full;
mod inside;
mod kafka;
mod kills;
mod letters;
mod long;
mod parked;
mod pauses;
mod play;
mod proxy;
mod roster;
mod stage;
mod stalls;
mod sync_errors;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use checker::{Kind, Report, Verdict};
use clap::{Args, ValueEnum};

use cluster::Cluster;
use kafka::Form;

use crate::random::Random;

/// One kind of harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// 200 kills of two writers, 1,000,000 acknowledged events.
    Kills,
    /// 20 pauses of consumers past their session.
    Pauses,
    /// 100 drains under load.
    Drains,
    /// 50 sizes at which the disk is full.
    Full,
    /// Errors at the N-th sync.
    SyncErrors,
    /// Truncated and flipped bytes, a deleted write-ahead log.
    Damage,
    /// An old copy in the place of the log.
    OldCopy,
    /// 1,000 parked keys, released.
    Parked,
    /// 10 outages of the dead-letter topic.
    DeadLetterOutage,
    /// 12 planted stalls.
    Stalls,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the runs keep their files.
    #[arg(long)]
    dir: PathBuf,
    /// The seed; without it a new one is taken and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// All kinds of harm on publishers and two groups for this long; without it, the short scenarios.
    #[arg(long)]
    minutes: Option<u64>,
    /// What a line of the ledger names: the commit under test.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Of the short scenarios, this one alone.
    #[arg(long)]
    only: Option<Scenario>,
    /// On the Kafka cluster in this folder, whose brokers leave their ports to a proxy.
    #[arg(long, requires = "xtask", conflicts_with = "only")]
    kafka: Option<PathBuf>,
    /// The program that runs the cluster.
    #[arg(long)]
    xtask: Option<PathBuf>,
    /// On Kafka: one storm of less than a minute.
    #[arg(long, requires = "kafka", conflicts_with = "minutes")]
    minute: bool,
}

/// What a scenario came to.
pub(crate) struct Judged {
    pub(crate) report: Report,
    /// What it says of itself beside the checker's counts.
    pub(crate) note: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    if let (Some(folder), Some(xtask)) = (&options.kafka, &options.xtask) {
        return on_kafka(options, Cluster::load(folder, xtask)?, seed);
    }
    if let Some(minutes) = options.minutes {
        println!("seed {seed}, {minutes} minutes");
        return long(options, minutes, seed);
    }
    let scenarios = options.only.map_or_else(|| Scenario::value_variants().to_vec(), |only| vec![only]);
    let mut broken = Vec::new();
    for scenario in scenarios {
        let name = scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("\n== chaos {name}, seed {seed}");
        let dir = options.dir.join(&name);
        let random = Random::new(seed);
        let started = Instant::now();
        let judged = match scenario {
            Scenario::Kills => kills::run(&dir, random),
            Scenario::Pauses => pauses::run(&dir, random),
            Scenario::Drains => drains::run(&dir, random),
            Scenario::Full => full::run(&dir, random),
            Scenario::SyncErrors => sync_errors::run(&dir, random),
            Scenario::Damage => damage::flipped(&dir, random),
            Scenario::OldCopy => damage::old_copy(&dir, random),
            Scenario::Parked => parked::run(&dir, random),
            Scenario::DeadLetterOutage => letters::run(&dir, random),
            Scenario::Stalls => stalls::run(&dir, random),
        }?;
        println!("{}\n{}", judged.report, judged.note);
        println!("== {:.1} s: chaos {name}, seed {seed}", started.elapsed().as_secs_f64());
        if judged.report.passed() {
            std::fs::remove_dir_all(&dir)?;
        } else {
            println!("its files are in {}", dir.display());
            broken.push(name);
        }
    }
    ensure!(broken.is_empty(), "not proved: {}; again with --seed {seed}", broken.join(", "));
    Ok(())
}

fn long(options: &Options, minutes: u64, seed: u64) -> anyhow::Result<()> {
    let dir = options.dir.join("long");
    let judged = long::run(&dir, Random::new(seed), Duration::from_secs(minutes * 60))?;
    ensure!(judged.report.passed(), "the files are in {}", dir.display());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Prints the line of a long run.
fn ledger(options: &Options, judged: &Judged, minutes: u64, seed: u64) {
    let count = |name: &str| judged.report.counts.get(name).copied().unwrap_or(0);
    println!("{}\n{}", judged.report, judged.note);
    let verdict = if judged.report.passed() { "kept" } else { "NOT KEPT" };
    println!(
        "ledger: | {} | {seed} | {minutes} | {} | {} | {} | {} | {verdict} |",
        options.commit,
        count("fault kill"),
        count("fault pause") + count("fault long pause"),
        count("drains"),
        count("acknowledged"),
    );
}

fn on_kafka(options: &Options, cluster: Cluster, seed: u64) -> anyhow::Result<()> {
    let form = match options.minutes {
        Some(minutes) => Form::minutes(minutes),
        None if options.minute => Form::MINUTE,
        None => Form::SHORT,
    };
    println!("\n== chaos kafka, {} s, seed {seed}", form.length.as_secs());
    let dir = options.dir.join("kafka");
    let judged = kafka::run(&dir, cluster, Random::new(seed), form)?;
    println!("{}\n{}", judged.report, judged.note);
    if let Some(minutes) = options.minutes {
        ledger(options, &judged, minutes, seed);
    }
    ensure!(judged.report.passed(), "the files are in {}; again with --seed {seed}", dir.display());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// The kinds of faults that stop a process where it stands, with a lock of the database in its hands perhaps.
fn stops() -> BTreeSet<String> {
    ["pause", "long pause"].map(str::to_owned).into()
}

/// Members of each group.
const MEMBERS: usize = 3;

/// Adds what became of the liveness that must follow healing.
fn alive(mut report: Report, caught_up: Result<Duration, i64>, note: String) -> Judged {
    let note = match caught_up {
        Ok(took) => format!("{note}; caught up {:.1} s after healing", took.as_secs_f64()),
        Err(lag) => {
            let what = format!("{lag} records still waited long after all was healed");
            report.verdicts.push(Verdict { kind: Kind::Stuck, what });
            note
        }
    };
    Judged { report, note }
}

/// Puts several reports together.
fn merge(reports: impl IntoIterator<Item = (String, Report)>) -> Report {
    let mut all = Report::default();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, report) in reports {
        for mut verdict in report.verdicts {
            verdict.what = format!("{name}: {}", verdict.what);
            all.verdicts.push(verdict);
        }
        if let Some(void) = report.void {
            all.void.get_or_insert(format!("{name}: {void}"));
        }
        for (name, count) in report.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    all.counts = counts;
    all
}
