//! What is published. Payloads follow from id, key and number alone, so that a repeat has the same bytes.

use aqueduct::{Draft, EncodeError, EventId, prelude::*};
use checker::{Sent, crc32};

/// The topic of [`Moved`].
pub(crate) const MOVES: &str = "chaos.moves";
/// The topic of [`Echoed`].
pub(crate) const ECHOES: &str = "chaos.echoes";
/// The topic of [`Mirrored`].
pub(crate) const MIRRORS: &str = "chaos.mirrors";

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "chaos.Moved", topic = "chaos.moves", key = key)]
pub(crate) struct Moved {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) kseq: u64,
    pub(crate) filler: String,
}

/// What the transactional handler stages.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "chaos.Echoed", topic = "chaos.echoes", key = key)]
pub(crate) struct Echoed {
    pub(crate) of: String,
    pub(crate) key: String,
}

/// What a handler from topic to topic returns: it is the effect.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "chaos.Mirrored", topic = "chaos.mirrors", key = key)]
pub(crate) struct Mirrored {
    pub(crate) key: String,
    pub(crate) effect: Effect,
}

/// What took effect, as the observer reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Effect {
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) generation: i64,
}

impl Moved {
    pub(crate) fn new(id: String, key: String, kseq: u64) -> Self {
        let length = usize::try_from(hash(&id) % 200).unwrap_or(0);
        Self { id, key, kseq, filler: "x".repeat(length) }
    }

    /// The draft under its own id, and what the checker is told of it.
    pub(crate) fn draft(&self) -> Result<(Draft, Sent), EncodeError> {
        let draft = Draft::of(self)?.id(EventId::parse(&self.id));
        let (id, key) = (self.id.clone(), Some(self.key.clone()));
        let crc = crc32(draft.payload());
        Ok((draft, Sent { id, topic: MOVES.to_owned(), key, kseq: self.kseq, crc }))
    }
}

impl Echoed {
    /// The id of the echo of an event.
    pub(crate) fn id_of(event: &str) -> String {
        format!("echo.{event}")
    }
}

/// FNV-1a: what is to happen to an event follows from its id.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
