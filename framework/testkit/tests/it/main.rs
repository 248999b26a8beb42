//! The framework in the simulation, and the testkit itself.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod given;
mod simulation;
