//! `chaos`: real processes on one embedded log, and what is done to them. `checker` observes and decides.

mod consume;
mod event;
mod inspect;
mod publish;
mod random;
mod release;
mod run;
mod sink;
mod spy;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish.
    Publisher(publish::Options),
    /// Consume.
    Consumer(consume::Options),
    /// Release parked keys.
    Release(release::Options),
    /// Read a log through the framework.
    Inspect(inspect::Options),
    /// Start the others, do harm, let the checker decide.
    Run(run::Options),
}

fn main() -> anyhow::Result<()> {
    let command = Options::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        Command::Publisher(options) => runtime.block_on(publish::run(options)),
        Command::Consumer(options) => runtime.block_on(consume::run(options)),
        Command::Release(options) => runtime.block_on(release::run(options)),
        Command::Inspect(options) => runtime.block_on(inspect::run(options)),
        Command::Run(options) => run::run(&options),
    }
}
