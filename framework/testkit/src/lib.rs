//! Suites that prove an adapter of a port. For tests only: a broken promise panics, naming it.
//!
//! - [`contract`]: what every commit log must do

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed case is a panic, as in any test")]

pub mod contract;
