//! What Aqueduct costs per event, beside raw loops.

use crate::{
    kafka,
    run::{command, step},
};

pub(crate) fn run(what: &str, arguments: &[String]) -> anyhow::Result<()> {
    match what {
        "kafka" => kafka::bench(arguments),
        _ => step(command("cargo run --release --package bench --bin bench --").arg(what).args(arguments)),
    }
}
