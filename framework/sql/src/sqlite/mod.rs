//! SQLite: one file per service, one writer per process.
//!
//! [`gate`] decides whose turn it is and [`writer`] commits; [`session`] is the connection while it is lent;
//! [`transaction`] is a delivery's turn. [`position`], [`outbox`], [`relay`] are what the port asks for.

mod cursor;
mod database;
mod effects;
mod gate;
mod housekeeping;
mod lease;
mod open_files;
mod outbox;
mod outlet;
mod position;
mod readers;
mod relay;
mod schema;
mod session;
mod transaction;
mod writer;

pub use database::{Database, Options};
pub use transaction::Sqlite;
