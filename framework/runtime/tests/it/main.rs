//! The runtime on the memory log: order, settling, failure, drain. Time is paused where it matters.

mod drain;
mod failure;
mod order;
mod publish;
mod support;
