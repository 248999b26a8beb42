//! `cargo xtask`: what the project does to itself. `cargo xtask test` is what CI runs, and nothing else.

mod data;
mod kills;
mod measure;
mod run;
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
    /// Play the shop to its end with kill -9 at random moments, then let the independent program decide.
    Kills(kills::Options),
    /// Play the shop to its end and print its speed, CPU time and peak memory.
    Measure(measure::Options),
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Test => test::run(),
        Command::Data { dir, out, from, to } => data::convert(&dir, &out, from.as_deref(), to.as_deref()),
        Command::Kills(options) => kills::run(&options),
        Command::Measure(options) => measure::run(&options),
    }
}
