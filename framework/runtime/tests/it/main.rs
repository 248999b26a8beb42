//! The runtime on the memory log: order, settling, failure, drain. Time is paused where it matters.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by where it panics")]

mod drain;
mod exactly_once;
mod failure;
mod growth;
mod lanes;
mod order;
mod parking;
mod progress;
mod publish;
mod replay;
mod support;
mod taking;
mod unreadable;
