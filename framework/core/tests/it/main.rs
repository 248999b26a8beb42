//! What core promises for every input, not only for good ones.

mod bad_input;
mod batch;
mod cloudevents;
mod group;
mod keys;
