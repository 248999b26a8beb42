//! Gates that no clock decides: allocations, instructions, memory. The counted program is `gates`, a process of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what went wrong by where it panics"
)]

mod allocations;
mod instructions;
mod stuck;

use std::process::Command;

use serde::Deserialize;

/// The committed figures: `tools/bench/instructions.json`.
#[derive(Debug, Deserialize)]
struct Figures {
    /// Instructions per event.
    consume: f64,
    /// Instructions per event.
    publish: f64,
    /// Allocations per published event.
    publish_allocations: f64,
}

fn figures() -> Figures {
    serde_json::from_str(include_str!("../../instructions.json")).unwrap()
}

/// The counted program, with what a figure must not depend on taken away.
fn gates() -> Command {
    let mut gates = Command::new(env!("CARGO_BIN_EXE_gates"));
    gates.env_clear();
    gates
}

fn number(command: &mut Command) -> u64 {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
