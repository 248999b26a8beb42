//! Keys: what keeps events in order, and which partition they go to.

use std::{borrow::Borrow, fmt};

use bytes::Bytes;

/// The bytes of a record's key. Events with equal keys are handled in order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// The key made of one field: its text, as [`EventKey`] defines it.
    pub fn of(part: &(impl EventKey + ?Sized)) -> Self {
        let mut text = String::with_capacity(24);
        part.append_to(&mut text);
        Self(bytes(text))
    }

    /// The key made of several fields: their texts joined by `/`, with `/` and `%` inside them escaped.
    #[must_use]
    pub fn of_parts(parts: &[&dyn EventKey]) -> Self {
        let mut text = String::with_capacity(32);
        let mut part = String::new();
        for (index, field) in parts.iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            part.clear();
            field.append_to(&mut part);
            for char in part.chars() {
                match char {
                    '/' => text.push_str("%2F"),
                    '%' => text.push_str("%25"),
                    other => text.push(other),
                }
            }
        }
        Self(bytes(text))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Without spare room, which would cost [`Bytes`] a second allocation.
fn bytes(text: String) -> Bytes {
    text.into_bytes().into_boxed_slice().into()
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A field that can be (part of) a key. Its text is part of the wire format, so it is not `Display`: changing
/// how a type is shown must not move its events to another partition.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of an event's key",
    note = "implement `EventKey` for it: append the text that identifies it, which must never change"
)]
pub trait EventKey {
    /// Appends the key text of this value.
    fn append_to(&self, text: &mut String);
}

macro_rules! key_by_display {
    ($($type:ty),*) => {$(
        impl EventKey for $type {
            fn append_to(&self, text: &mut String) {
                use fmt::Write;
                // Writing to a String cannot fail.
                let _ = write!(text, "{self}");
            }
        }
    )*};
}
key_by_display!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, bool, char, uuid::Uuid);

impl EventKey for str {
    fn append_to(&self, text: &mut String) {
        text.push_str(self);
    }
}

impl EventKey for String {
    fn append_to(&self, text: &mut String) {
        text.push_str(self);
    }
}

impl<T: EventKey + ?Sized> EventKey for &T {
    fn append_to(&self, text: &mut String) {
        (**self).append_to(text);
    }
}

/// The partition of a key among `partitions`, as Kafka's Java client chooses it (murmur2, seed 0x9747b28c,
/// `toPositive`).
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = murmur2(key) & 0x7fff_ffff;
    let count = u32::try_from(partitions.max(1)).unwrap_or(1);
    i32::try_from(positive % count).unwrap_or(0)
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // Lengths over u32 cannot be stored as a record; the low bits suffice.
    let mut h = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (index, byte) in rest.iter().enumerate().rev() {
        h ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Apache Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_the_java_clients() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        let key = |a: &str, b: &str| Key::of_parts(&[&a, &b]).to_string();
        assert_eq!(key("a/b", "c"), "a%2Fb/c");
        assert_eq!(key("a", "b/c"), "a/b%2Fc");
        assert_ne!(key("a%2Fb", "c"), key("a/b", "c"));
        assert_eq!(Key::of(&7_u32).as_bytes(), b"7");
    }
}
