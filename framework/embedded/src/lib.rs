//! The embedded commit log: durable, in one SQLite file, without a server.
//!
//! Two threads serve an instance. The *writer* owns the connection that writes: whatever queued while it committed
//! is its next transaction, and receipts follow the sync. The *reader* owns a read-only connection, runs reads in
//! turn and looks for commits of other processes. Readers at the end of a partition wait for the writer to tell its
//! new end.
//!
//! Several processes may open one file and share its consumer groups: who owns which partition is in the database, each
//! process sees by the others' member files whether they live and run, and any of them hands out what a killed or stopped
//! one owned. Beside the database `shop.db` there are `shop.db-wal` and `-shm` (SQLite's), `.writer` and `.queue` (whose
//! turn it is to write), `.highwater.<n>` (how far was acknowledged, see [`EmbeddedLog::lost_ranges`]) and
//! `.member.<token>`. The layout is described in docs/formats.md.

mod apply;
mod batch;
mod beacon;
mod changes;
mod command;
mod compaction;
mod consumer;
mod error;
mod failure;
mod file;
mod groups;
mod highwater;
mod holds;
mod log;
mod maintenance;
mod membership;
mod options;
mod producer;
mod reader;
mod reading;
mod registry;
mod retention;
mod schema;
mod shared;
mod telling;
mod turn;
mod writer;

pub use log::EmbeddedLog;
pub use options::EmbeddedOptions;
pub use shared::LostRange;
