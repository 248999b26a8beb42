//! An event's metadata.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{environment::Timestamp, log::Offset, trace::TraceContext};

/// The id of an event. Ours are UUIDs; CloudEvents allows any text, so others' are kept as they are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventId {
    /// A UUID: version 7, or version 8 where derived.
    Uuid(Uuid),
    /// Any other text; unique within its source only.
    Text(Box<str>),
}

impl EventId {
    /// Reads a `ce_id`. Only the canonical form of a UUID is taken as one, so that text survives unchanged.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Self::Uuid(uuid)
            }
            _ => Self::Text(text.into()),
        }
    }

    /// The id of a record that came without one: derived from where it stands.
    #[must_use]
    pub fn of_position(topic: &str, partition: i32, offset: Offset) -> Self {
        Self::hash(&[b"position", topic.as_bytes(), &partition.to_le_bytes(), &offset.to_le_bytes()])
    }

    /// The id of the `index`-th event that the subscription `scope` made of this one.
    #[must_use]
    pub fn derive(&self, source: &str, scope: &str, index: usize) -> Self {
        let index = u64::try_from(index).unwrap_or(u64::MAX);
        Self::hash(&[b"derived", &self.mark(source), scope.as_bytes(), &index.to_le_bytes()])
    }

    /// The id for a fact that has a name of its own, such as a basket number: the same name, the same id.
    #[must_use]
    pub fn of_name(space: &str, name: &str) -> Self {
        Self::hash(&[b"name", space.as_bytes(), name.as_bytes()])
    }

    /// What an inbox remembers of the event: 16 bytes over source and id, since an id is unique within its source
    /// only (CloudEvents 1.0, "id").
    #[must_use]
    pub fn mark(&self, source: &str) -> [u8; 16] {
        Self::digest(&[b"mark", source.as_bytes(), self.to_string().as_bytes()])
    }

    /// UUIDv8 (RFC 9562 §5.8) over the parts.
    fn hash(parts: &[&[u8]]) -> Self {
        Self::Uuid(Uuid::new_v8(Self::digest(parts)))
    }

    /// The first half of the SHA-256 of the length-prefixed parts.
    fn digest(parts: &[&[u8]]) -> [u8; 16] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => fmt::Display::fmt(uuid, f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => fmt::Display::fmt(uuid, f),
            Self::Text(text) => fmt::Debug::fmt(text, f),
        }
    }
}

/// An event's metadata, as CloudEvents 1.0 names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Unique within the source.
    pub id: EventId,
    /// The dotted name of the type, without the version.
    pub name: String,
    /// The version of the type.
    pub version: u32,
    /// The service that published it.
    pub source: String,
    /// What it is about, where that is not the record's key.
    pub subject: Option<String>,
    /// When it happened: the record's timestamp unless set otherwise.
    pub time: Timestamp,
    /// The first event of its conversation, where that is not itself.
    pub correlation: Option<EventId>,
    /// The event that caused it.
    pub causation: Option<EventId>,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_text_and_derive_the_same_again() {
        for text in
            ["018f4e6a-9c3b-7d3e-8f00-1234567890ab", "018F4E6A-9C3B-7D3E-8F00-1234567890AB", "A-1", ""]
        {
            assert_eq!(EventId::parse(text).to_string(), text);
        }
        let id = EventId::parse("A-1");
        assert_eq!(id.derive("till", "stock", 0), id.derive("till", "stock", 0));
        assert_ne!(id.derive("till", "stock", 0), id.derive("till", "stock", 1));
        assert_ne!(id.derive("till", "stock", 0), id.derive("web", "stock", 0));
        // P4: the same id of another source is another event. Red when `mark` leaves the source out.
        let uuid = EventId::of_name("till", "7");
        assert_ne!(uuid.mark("till"), uuid.mark("web"));
        assert_eq!(EventId::of_name("till", "7").to_string().as_bytes()[14], b'8');
    }
}
