//! `bench embedded` and `bench curves`: what `cargo xtask bench` runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use bench::{
    consume::Consuming,
    curves::{self, Axis},
    harness::{self, Report, Row},
    lanes::Sleeping,
    machine::Machine,
    publish::{Publishers, Publishing},
    sizes,
    transact::Transacting,
};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The embedded log and SQLite against raw loops, interleaved.
    Embedded(Common),
    /// The cost per event along window, distinct keys and handlers.
    Curves(Common),
}

#[derive(Debug, Args)]
struct Common {
    /// Only these rows or axes; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// How many pairs of runs, or rounds of a curve.
    #[arg(long, default_value_t = 8)]
    pairs: usize,
    /// A tenth of the events and 2 pairs: shows that it works, measures little.
    #[arg(long)]
    quick: bool,
    /// Where files are written; on the disk that is to be measured.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Writes everything, each run included, to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Common {
    fn pairs(&self) -> usize {
        if self.quick { 2 } else { self.pairs }
    }

    fn events(&self, count: u64) -> u64 {
        if self.quick { count / 10 } else { count }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// What a run prints, for programs.
#[derive(Debug, Serialize)]
struct Printed<T> {
    machine: Machine,
    results: Vec<T>,
}

fn main() -> anyhow::Result<()> {
    let (Command::Embedded(common) | Command::Curves(common)) = &Options::parse().command;
    fs::create_dir_all(&common.dir).with_context(|| format!("cannot make {}", common.dir.display()))?;
    let machine = Machine::look(&common.dir)?;
    println!(
        "commit {}, {}, SQLite {}, Linux {}, {} x {}, sync of the disk {:.0} µs",
        machine.commit,
        machine.rustc,
        machine.sqlite,
        machine.kernel,
        machine.processors,
        machine.processor,
        machine.sync_micros
    );
    match Options::parse().command {
        Command::Embedded(common) => embedded(machine, &common),
        Command::Curves(common) => curves(machine, &common),
    }
}

/// Makes one row, with its events.
type Make = fn(&'static str, &Common, &Path) -> anyhow::Result<Box<dyn Row>>;

fn publishing(
    name: &'static str,
    common: &Common,
    publishers: Publishers,
    count: u64,
    bar: Option<f64>,
) -> anyhow::Result<Box<dyn Row>> {
    Ok(Box::new(Publishing::new(name, publishers, common.events(count), bar, &common.dir)?))
}

const ROWS: [(&str, Make); 8] = [
    ("publish-1", |name, common, _| publishing(name, common, Publishers::Awaited(1), 5_000, None)),
    ("publish-64", |name, common, _| publishing(name, common, Publishers::Awaited(64), 200_000, Some(0.90))),
    ("publish-1024", |name, common, _| {
        publishing(name, common, Publishers::Awaited(1_024), 300_000, Some(0.90))
    }),
    ("publish-all", |name, common, _| {
        publishing(name, common, Publishers::Batches(1_000), 300_000, Some(0.85))
    }),
    ("consume", |name, common, dir| {
        Ok(Box::new(Consuming::new(name, 64, common.events(600_000), 0.70, dir)))
    }),
    ("transact", |name, common, dir| {
        Ok(Box::new(Transacting::new(name, 64, common.events(150_000), 0.85, dir)?))
    }),
    ("sleep-64", |name, common, dir| {
        Ok(Box::new(Sleeping::new(name, 64, common.events(100_000), 0.95, dir)))
    }),
    ("sleep-1024", |name, common, dir| {
        Ok(Box::new(Sleeping::new(name, 1_024, common.events(600_000), 0.95, dir)))
    }),
];

fn embedded(machine: Machine, common: &Common) -> anyhow::Result<()> {
    let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
    known(common, &names)?;
    sizes::listen()?;
    let mut results: Vec<Report> = Vec::new();
    for (name, make) in ROWS {
        if common.wants(name) {
            let report = harness::compare(&mut *make(name, common, &common.dir)?, common.pairs())?;
            print!("{}", report.text());
            results.push(report);
        }
    }
    let missed: Vec<_> = results.iter().filter(|row| row.met == Some(false)).map(|row| row.name).collect();
    finish(common, &Printed { machine, results }, &missed)
}

fn curves(machine: Machine, common: &Common) -> anyhow::Result<()> {
    known(common, &Axis::ALL.map(Axis::name))?;
    let mut results = Vec::new();
    for axis in Axis::ALL.into_iter().filter(|axis| common.wants(axis.name())) {
        let curve = curves::measure(axis, common.events(1_000_000), common.pairs())?;
        print!("{}", curve.text());
        results.push(curve);
    }
    let missed: Vec<_> = results.iter().filter(|curve| !curve.met).map(|curve| curve.axis.name()).collect();
    finish(common, &Printed { machine, results }, &missed)
}

fn known(common: &Common, names: &[&str]) -> anyhow::Result<()> {
    let unknown = common.only.iter().find(|only| !names.contains(&only.as_str()));
    ensure!(
        unknown.is_none(),
        "there is no {:?}; there are {}",
        unknown.unwrap_or(&String::new()),
        names.join(", ")
    );
    Ok(())
}

fn finish<T: Serialize>(common: &Common, printed: &Printed<T>, missed: &[&str]) -> anyhow::Result<()> {
    if let Some(path) = &common.json {
        let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        serde_json::to_writer_pretty(file, printed)?;
    }
    if common.quick {
        println!("\nquick: figures of so few events mean little");
        return Ok(());
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join(", "));
    Ok(())
}
