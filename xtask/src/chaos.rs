//! Real processes on the embedded log under kills, pauses, full disks and damage; the independent checker decides.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::run::{command, root, step, target};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log.
    log: Log,
    /// The long form: all kinds of harm on publishers and two groups, for this long.
    #[arg(long, required_unless_present = "short", conflicts_with = "short")]
    minutes: Option<u64>,
    /// The short scenarios, one after the other.
    #[arg(long)]
    short: bool,
    /// Of the short scenarios this one: `chaos run --help` lists them.
    #[arg(long, requires = "short")]
    only: Option<String>,
    /// The seed; without it a new one is taken and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the runs keep their files; those of a run that proves nothing stay.
    #[arg(long, default_value = "target/chaos")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Embedded,
}

impl Options {
    /// The short scenarios, as the test command runs them.
    pub(crate) fn short() -> Self {
        let dir = "target/chaos".into();
        Self { log: Log::Embedded, minutes: None, short: true, only: None, seed: None, dir }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Log::Embedded = options.log;
    step(&mut command("cargo build --release --package chaos --package checker"))?;
    let mut chaos = command(&target().join("release/chaos").display().to_string());
    chaos.arg("run").arg("--dir").arg(root().join(&options.dir));
    if let Some(seed) = options.seed {
        chaos.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = &options.only {
        chaos.args(["--only", only]);
    }
    if let Some(minutes) = options.minutes {
        let commit = command("git rev-parse --short HEAD").output()?;
        chaos.args(["--minutes", &minutes.to_string(), "--commit", String::from_utf8(commit.stdout)?.trim()]);
    }
    step(&mut chaos)
}
