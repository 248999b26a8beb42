//! What core promises for every input, not only for good ones.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod bad_input;
mod batch;
mod cloudevents;
mod group;
mod keys;
