//! The commit log in memory: what it acknowledged is there for the process's life.
//!
//! - [`MemoryLog`]: the port [`CommitLog`](aqueduct_core::log::CommitLog)
//! - [`Faults`]: failures on command, for tests; [`Chances`]: failures by chance, the same for the same seed
//!
//! One lock guards the whole state; nothing runs on a thread of its own and no decision follows a hash map's order,
//! so that a run with a seed replays. The log has no clock: age is measured against a partition's newest record.

mod consumer;
mod faults;
mod groups;
mod log;
mod partition;
mod plan;
mod process;
mod producer;
mod reader;
mod state;
mod switch;
mod topics;

pub use faults::Faults;
pub use log::MemoryLog;
pub use plan::{Chances, Counts};
