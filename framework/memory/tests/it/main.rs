//! The memory log keeps the contract of every log, and fails on command.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod contract;
mod faults;
mod processes;
mod retention;
mod tools;
