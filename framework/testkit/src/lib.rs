//! For tests only: what proves an adapter of a port, and what proves a service. A broken promise panics, naming it.
//!
//! - [`contract`]: what every commit log must do
//! - [`given`]: given, when, then, for aggregates and handlers
//! - `sim` (feature, on by default): a seeded simulation of a service

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed case is a panic, as in any test")]

pub mod contract;
pub mod given;
#[cfg(feature = "sim")]
pub mod sim;
