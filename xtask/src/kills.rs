//! The shop under `kill -9`: it is killed at random moments, started again, and at the end the independent program
//! compares its report, its databases and its log with what the data fixes.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::run::{self, command, step};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The sales; without it, the sample.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// How often to kill.
    #[arg(long, default_value_t = 20)]
    pub(crate) kills: u32,
    /// The longest time between a start and its kill, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) within: u64,
    /// The seed of the moments; without it a new one is taken and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where the log and the databases are kept; emptied first.
    #[arg(long, default_value = "target/kills")]
    pub(crate) state: PathBuf,
}

/// How long the last run, which nobody kills, may take.
const LAST_RUN: Duration = Duration::from_secs(900);

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let shop = run::shop()?;
    let state = run::root().join(&options.state);
    let data = match &options.data {
        Some(data) => std::path::absolute(data)?,
        None => run::root().join("services/shop/data/sample.csv.gz"),
    };
    empty(&state)?;
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    let mut random = seed | 1;
    let report = state.join("report.json");
    for kill in 1..=options.kills {
        // xorshift64: enough to spread moments, and a seed repeats them.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // From the first milliseconds on: opening and taking over are moments too.
        let moment = Duration::from_millis(random % options.within.max(1));
        let mut child = start(&shop, &data, &state, &report)?;
        thread::sleep(moment);
        if let Some(status) = child.try_wait()? {
            bail!(
                "the shop ended before kill {kill} of {}: {status}; choose a shorter --within",
                options.kills
            );
        }
        // On Unix this is SIGKILL.
        child.kill()?;
        child.wait()?;
        println!("kill {kill} after {} ms", moment.as_millis());
    }
    let started = Instant::now();
    let mut child = start(&shop, &data, &state, &report)?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > LAST_RUN {
            child.kill()?;
            bail!("the last run did not end within {LAST_RUN:?}");
        }
        thread::sleep(Duration::from_millis(50));
    };
    ensure!(status.success(), "the last run failed: {status}");
    println!("the last run took {:.1} s", started.elapsed().as_secs_f64());
    step(command("python3 -B tools/verify/verify.py check").arg(&data).arg(&report).arg(&state))
}

/// Only a folder of ours is emptied.
fn empty(state: &Path) -> anyhow::Result<()> {
    if state.exists() {
        let ours = state.join("log.db").exists() || fs::read_dir(state)?.next().is_none();
        ensure!(ours, "{} is not a state directory of the shop; it is left alone", state.display());
        fs::remove_dir_all(state)?;
    }
    fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))
}

fn start(shop: &Path, data: &Path, state: &Path, report: &Path) -> anyhow::Result<Child> {
    Command::new(shop)
        .args(["--speed", "max", "--until-end", "--listen", "127.0.0.1:0"])
        .arg("--data")
        .arg(data)
        .arg("--state")
        .arg(state)
        .arg("--report")
        .arg(report)
        .env("AQUEDUCT_LOGS_LEVEL", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", shop.display()))
}
