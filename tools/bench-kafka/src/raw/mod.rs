//! The raw loops: librdkafka, an encoder or a decoder, and nothing else.

#[allow(unsafe_code, reason = "no wrapper costs less than calling the library directly")]
pub(crate) mod direct;
pub(crate) mod wrapped;

use aqueduct::Environment;
use bench::events::Sold;

/// A record as our side writes it: the same payload, the same headers.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) value: Vec<u8>,
    pub(crate) id: [u8; 36],
    /// Milliseconds.
    pub(crate) timestamp: i64,
}

/// Records that a raw loop has on their way at most: with more of them the caches are too small.
pub(crate) const IN_FLIGHT: i32 = 4_000;

/// The headers whose values are always the same.
pub(crate) const FIXED: [(&str, &str); 3] =
    [("ce_specversion", "1.0"), ("ce_type", "bench.Sold"), ("ce_source", "aqueduct")];

impl Encoded {
    pub(crate) fn new() -> Self {
        Self { value: Vec::with_capacity(512), id: [0; 36], timestamp: 0 }
    }

    /// Encodes an event under a new id, into memory that is used again.
    pub(crate) fn set(&mut self, event: &Sold, environment: &Environment) -> anyhow::Result<()> {
        self.value.clear();
        serde_json::to_writer(&mut self.value, event)?;
        environment.new_id().hyphenated().encode_lower(&mut self.id);
        self.timestamp = environment.now().as_millis();
        Ok(())
    }
}
