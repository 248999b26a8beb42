//! The full year of sales, from the parquet files.

use std::path::Path;

use crate::run::{command, step};

pub(crate) fn convert(dir: &Path, out: &Path, from: Option<&str>, to: Option<&str>) -> anyhow::Result<()> {
    // Paths are the caller's, so they are made whole before the command runs in the root.
    let (dir, out) = (std::path::absolute(dir)?, std::path::absolute(out)?);
    let mut journey = command("cargo run --release --package journey --");
    journey.arg(dir).arg("--out").arg(out);
    for (name, day) in [("--from", from), ("--to", to)] {
        if let Some(day) = day {
            journey.args([name, day]);
        }
    }
    step(&mut journey)
}
