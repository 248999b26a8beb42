//! What Aqueduct costs per event, beside raw loops.

use crate::run::{command, step};

pub(crate) fn run(what: &str, arguments: &[String]) -> anyhow::Result<()> {
    step(command("cargo run --release --package bench --bin bench --").arg(what).args(arguments))
}
