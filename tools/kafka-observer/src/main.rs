//! `kafka-observer`: what a Kafka cluster holds and what groups have settled there, seen by the raw client.
//!
//! It takes topics and groups by their names in the cluster, and records by `docs/formats.md`.

mod cluster;
mod lag;
mod read;
mod save;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::Context;
use checker::Recorder;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "kafka-observer")]
struct Options {
    /// The brokers, `HOST:PORT[,HOST:PORT..]`.
    brokers: String,
    /// `GROUP=TOPIC`, for each topic of each group.
    #[arg(long, value_parser = checker::group_and_topic)]
    reads: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample what the groups have settled, until standard input ends.
    Watch {
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Read all topics to their ends.
    Read {
        /// A topic whose records are effects.
        #[arg(long)]
        effects: Option<String>,
        /// The file of observations.
        #[arg(long)]
        out: PathBuf,
    },
    /// Save all topics, up to their ends, in an SQLite file of the embedded log's form.
    Save {
        /// The file; it must not be there.
        file: PathBuf,
    },
    /// Print how many partitions of the cluster have fewer replicas in sync than replicas.
    Behind,
    /// Print how many records wait for the groups: counted where they are few, by their offsets where they are many.
    Lag,
}

fn main() -> anyhow::Result<()> {
    let Options { brokers, reads, command } = Options::parse();
    match command {
        Command::Watch { out } => watch::run(&brokers, &reads, &recorder(&out)?),
        Command::Read { effects, out } => read::run(&brokers, &reads, effects.as_deref(), &recorder(&out)?),
        Command::Save { file } => save::run(&brokers, &file),
        Command::Behind => {
            println!("{}", cluster::behind(&brokers)?);
            Ok(())
        }
        Command::Lag => {
            println!("{}", lag::count(&brokers, &reads)?);
            Ok(())
        }
    }
}

fn recorder(out: &Path) -> anyhow::Result<Recorder> {
    Recorder::open(out, "observer").with_context(|| format!("cannot write {}", out.display()))
}
