//! `cargo xtask`: what the project does to itself. `cargo xtask test` is what CI runs, and nothing else.

mod bench;
mod bugs;
mod chaos;
mod data;
mod kafka;
mod kills;
mod measure;
mod run;
mod simulate;
mod test;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the cost per event: `embedded` and `kafka` against raw loops, `curves` along three axes.
    Bench {
        /// `embedded`, `kafka` or `curves`.
        what: String,
        /// What the bench takes: `--only ROW`, `--pairs N`, `--quick`, `--dir DIR`, `--json FILE`; of `kafka`, `--peers`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Plant bugs, one at a time: each must be caught by the test that is there for it.
    Bugs(bugs::Options),
    /// Do harm to real processes, and let the independent checker decide: `--short`, or `--minutes N`.
    Chaos(chaos::Options),
    /// Try the gate, the ring and the lanes under tens of thousands of schedules of their threads.
    Shuttle,
    /// Install or find what the tests need, and run them all.
    Test,
    /// Convert The Complete Journey's parquet files to the CSV that the shop plays.
    Data {
        /// The folder of the parquet files.
        dir: PathBuf,
        /// The CSV to write, gzipped where the name ends in .gz.
        #[arg(long)]
        out: PathBuf,
        /// First day, UTC.
        #[arg(long)]
        from: Option<String>,
        /// Last day, UTC.
        #[arg(long)]
        to: Option<String>,
    },
    /// Real Apache Kafka on this machine.
    Kafka {
        /// The cluster's folder, where it is not `target/kafka`.
        #[arg(long, global = true)]
        cluster: Option<PathBuf>,
        #[command(subcommand)]
        action: kafka::Action,
    },
    /// Play the shop to its end with kill -9 at random moments, then let the independent program decide.
    Kills(kills::Options),
    /// Play the shop to its end and print its speed, CPU time and peak memory.
    Measure(measure::Options),
    /// Run the simulation for many seeds, or one seed again.
    Simulate(simulate::Options),
}

fn main() -> anyhow::Result<()> {
    run::own()?;
    match Options::parse().command {
        Command::Bench { what, arguments } => bench::run(&what, &arguments),
        Command::Bugs(options) => bugs::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Shuttle => bugs::schedules(),
        Command::Test => test::run(),
        Command::Data { dir, out, from, to } => data::convert(&dir, &out, from.as_deref(), to.as_deref()),
        Command::Kafka { cluster, action } => kafka::run(&action, cluster.as_deref()),
        Command::Kills(options) => kills::run(&options),
        Command::Measure(options) => measure::run(&options),
    }
}
