//! The shop as its user meets it: the binary, its command line, its files, its HTTP side.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bad_input;
mod life;
mod support;
mod trace;
