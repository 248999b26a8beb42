//! The Kafka log, on a real cluster: `cargo xtask kafka up` starts one. Without one every test fails.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken promise is a panic, also in what the tests share"
)]

mod answers;
mod bad_input;
mod cluster;
mod contract;
mod coordinated;
mod exactly_once;
mod growth;
mod hostile;
mod interop;
mod properties;
mod reading;
mod replay;
mod secrets;
mod secure;
mod slow;
mod topics;
mod unreadable;
mod wire;
