//! Real processes on a log under kills, pauses, full disks and damage, and on Kafka under what befalls its brokers and
//! connections too; the independent checker decides.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::{
    kafka,
    run::{self, Built, command, root, step, target},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log.
    log: Log,
    /// The long form: all kinds of harm on publishers and two groups, for this long.
    #[arg(long, required_unless_present_any = ["short", "minute"], conflicts_with = "short")]
    minutes: Option<u64>,
    /// On the embedded log the short scenarios, one after the other; on Kafka at most ten minutes.
    #[arg(long)]
    short: bool,
    /// On Kafka, one storm of less than a minute.
    #[arg(long, conflicts_with_all = ["short", "minutes", "only"])]
    minute: bool,
    /// Of the short scenarios this one: `chaos run --help` lists them.
    #[arg(long, requires = "short")]
    only: Option<String>,
    /// The seed; without it a new one is taken and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the runs keep their files; those of a run that proves nothing stay.
    #[arg(long, default_value = "target/chaos")]
    dir: PathBuf,
    #[arg(skip)]
    built: Built,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Embedded,
    Kafka,
}

impl Options {
    /// The short scenarios, as the test command runs them.
    pub(crate) fn short() -> Self {
        let dir = "target/chaos".into();
        Self {
            log: Log::Embedded,
            minutes: None,
            short: true,
            minute: false,
            only: None,
            seed: None,
            dir,
            built: Built::Everything,
        }
    }

    /// One storm on Kafka, as the test command runs it.
    pub(crate) fn minute() -> Self {
        Self { log: Log::Kafka, short: false, minute: true, ..Self::short() }
    }
}

/// Copies of what a run starts again and again: an hour outlasts the next build.
fn programs(built: &Path) -> anyhow::Result<PathBuf> {
    let folder = target().join("chaos-programs");
    fs::create_dir_all(&folder)?;
    for name in ["chaos", "checker", "kafka-observer"] {
        copy(&built.join(name), &folder.join(name))?;
    }
    copy(&run::own()?, &folder.join("xtask"))?;
    Ok(folder)
}

/// A copy of its own file: the one of before may be running.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let programs = programs(&run::killed(options.built)?)?;
    let mut chaos = command(&programs.join("chaos").display().to_string());
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
    match options.log {
        Log::Embedded if options.minute => bail!("--minute is a form of `chaos kafka`"),
        Log::Embedded => step(&mut chaos),
        Log::Kafka if options.only.is_some() => bail!("--only is of `chaos embedded`"),
        Log::Kafka => {
            let folder = target().join("kafka-chaos");
            if options.minute {
                chaos.arg("--minute");
            }
            chaos.arg("--kafka").arg(&folder).arg("--xtask").arg(programs.join("xtask"));
            kafka::with_cluster(&folder, || step(&mut chaos))
        }
    }
}
