//! The commit log in memory: what it acknowledged is there for the process's life.
//!
//! - [`MemoryLog`]: the port [`CommitLog`](aqueduct_core::log::CommitLog)
//! - [`Faults`]: failures on command, for tests
//!
//! One lock guards the whole state; nothing runs on a thread of its own and no decision follows a hash map's order,
//! so that a run with a seed replays. The log has no clock: age is measured against a partition's newest record.

mod consumer;
mod faults;
mod groups;
mod log;
mod partition;
mod producer;
mod reader;
mod state;
mod topics;

pub use faults::Faults;
pub use log::MemoryLog;
