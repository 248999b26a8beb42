//! The standard event, as `bench` has it.

use ruststream_rdkafka::prelude::*;
use serde::{Deserialize, Serialize};

/// How many keys it has.
pub(crate) const KEYS: usize = 10_000;

/// The standard event.
#[derive(Debug, Deserialize, Serialize, Outgoing)]
pub(crate) struct Sold {
    /// The key: `k` and its number.
    pub(crate) account: String,
    /// Its number; those of a key rise.
    pub(crate) number: i64,
    store: u32,
    at: i64,
    amount: i64,
    product: String,
    household: String,
    note: String,
}
