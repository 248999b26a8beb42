//! The counted paths, one per process, so that nothing else is counted: `cargo test -p bench` runs this program.

use std::alloc::System;

use bench::gates;
use clap::{Parser, Subcommand};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints how many allocations consuming these batches took.
    AllocationsConsume { warm: u64, batches: u64, batch: u64 },
    /// Prints how many allocations publishing these events took.
    AllocationsPublish { warm: u64, count: u64 },
    /// Consumes, for a program that counts instructions.
    Consume { batches: u64, batch: u64 },
    /// Consumes events of so many types, for a program that counts instructions.
    Handlers { types: u64, count: u64 },
    /// Publishes, for a program that counts instructions.
    Publish { count: u64 },
    /// Decodes with serde_json alone.
    Decode { count: u64 },
    /// Encodes with serde_json alone.
    Encode { count: u64 },
}

/// Allocations so far, growth of one that is there included.
fn allocations() -> u64 {
    let stats = ALLOCATOR.stats();
    u64::try_from(stats.allocations + stats.reallocations).unwrap_or(u64::MAX)
}

fn nothing() -> u64 {
    0
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::AllocationsConsume { warm, batches, batch } => {
            println!("{}", gates::consume(warm, batches, batch, allocations)?);
        }
        Command::AllocationsPublish { warm, count } => {
            println!("{}", gates::publish(warm, count, allocations)?);
        }
        Command::Consume { batches, batch } => drop(gates::consume(1, batches, batch, nothing)?),
        Command::Handlers { types, count } => gates::handlers(types, count)?,
        Command::Publish { count } => drop(gates::publish(1, count, nothing)?),
        Command::Decode { count } => gates::decode(count)?,
        Command::Encode { count } => gates::encode(count)?,
    }
    Ok(())
}
