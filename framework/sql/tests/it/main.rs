//! P4 and P5 on SQLite.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod crash;
mod database;
mod deliveries;
mod outbox;
mod relay;
mod store;
mod support;
