//! `checker`: the observer and the judge of a run, as a program of its own.
//!
//! It reads the embedded log's file and the services' databases with plain SQL, by `docs/formats.md`.

mod embedded;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use checker::{History, Recorder, Rules};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "checker")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample the settled offsets of a log at 10 Hz, until standard input ends.
    Watch {
        /// The log's file; it need not exist yet.
        log: PathBuf,
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Read a log to its end.
    Read {
        /// The log's file.
        log: PathBuf,
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Read the effects in a service's database.
    Effects {
        /// A database with a table `effect`.
        database: PathBuf,
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Read what a log reports as gone.
    Gone {
        /// The log's file.
        log: PathBuf,
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print how many records wait for these groups.
    Lag {
        /// The log's file.
        log: PathBuf,
        /// `GROUP=TOPIC`, for each topic of each group.
        #[arg(long, value_parser = checker::group_and_topic)]
        reads: Vec<(String, String)>,
    },
    /// Print how many rows wait in a service's outbox.
    Outbox {
        /// The database.
        database: PathBuf,
    },
    /// Decide: 0 for kept, 1 for broken, 2 for void.
    Check {
        /// The folder of observations.
        folder: PathBuf,
        /// The rules, as JSON.
        #[arg(long)]
        rules: PathBuf,
        /// Where to write the report as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Options::parse().command {
        Command::Watch { log, out } => watch::run(&log, &recorder(&out)?)?,
        Command::Read { log, out } => {
            embedded::read(&log, &recorder(&out)?)
                .with_context(|| format!("cannot read {}", log.display()))?;
        }
        Command::Effects { database, out } => {
            embedded::effects(&database, &recorder(&out)?)
                .with_context(|| format!("cannot read {}", database.display()))?;
        }
        Command::Gone { log, out } => embedded::gone(&embedded::open(&log)?, &recorder(&out)?)?,
        Command::Lag { log, reads } => println!("{}", embedded::lag(&log, &reads)?),
        Command::Outbox { database } => println!("{}", embedded::outbox(&database)?),
        Command::Check { folder, rules, json } => return check(&folder, &rules, json.as_deref()),
    }
    Ok(ExitCode::SUCCESS)
}

fn recorder(out: &Path) -> anyhow::Result<Recorder> {
    Recorder::open(out, "observer").with_context(|| format!("cannot write {}", out.display()))
}

fn check(folder: &Path, rules: &Path, json: Option<&Path>) -> anyhow::Result<ExitCode> {
    let text = fs::read(rules).with_context(|| format!("cannot read {}", rules.display()))?;
    let rules: Rules = serde_json::from_slice(&text).context("the rules are not JSON of this version")?;
    let mut history = History::new();
    history.read_folder(folder)?;
    let report = history.check(&rules);
    if let Some(json) = json {
        fs::write(json, serde_json::to_vec(&report)?)?;
    }
    println!("{report}");
    Ok(match (report.verdicts.is_empty(), &report.void) {
        (false, _) => ExitCode::from(1),
        (true, Some(_)) => ExitCode::from(2),
        (true, None) => ExitCode::SUCCESS,
    })
}
