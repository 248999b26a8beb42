//! The simulation, longer than the tests run it, or one seed of it.

use crate::run::{command, step};

/// `cargo xtask simulate`
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many seeds, from 0 on.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// One seed alone, with every option that it derives.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// With `--seed`: every observation of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let test = if options.seed.is_some() { "one_seed" } else { "fixed_seeds" };
    let line = format!("cargo test --release --package aqueduct-testkit --test it {test} -- --nocapture");
    let mut test = command(&line);
    match options.seed {
        None => test.env("AQUEDUCT_SEEDS", options.seeds.to_string()),
        Some(seed) => test.env("AQUEDUCT_SEED", seed.to_string()),
    };
    if options.trace {
        test.env("AQUEDUCT_TRACE", "1");
    }
    step(&mut test)
}
