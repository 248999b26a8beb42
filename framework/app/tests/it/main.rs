//! An app, whole, on a log in memory: what it says of itself, its HTTP side, its settings, its drain.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod caught_up;
mod drain;
mod http;
mod readiness;
mod settings;
mod support;
mod topics;
mod trace;
mod watched;
