//! Records as one read returned them: one arena, an index, and a checksum verified on the way in.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use aqueduct_core::{
    RecordBatch, Timestamp, TopicName,
    log::{Offset, PartitionId},
    record::{HeaderBlock, HeaderRef},
};

use crate::shared::lock;

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
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed(id, timestamp, key, headers, value));
    hasher.update(key.unwrap_or_default());
    hasher.update(headers);
    hasher.update(value.unwrap_or_default());
    hasher.finalize()
}

/// What the checksum covers first. The bytes of key, headers and value follow.
fn fixed(id: i64, timestamp: i64, key: Option<&[u8]>, headers: &[u8], value: Option<&[u8]>) -> [u8; 28] {
    let mut fixed = [0; 28];
    fixed[..8].copy_from_slice(&id.to_le_bytes());
    fixed[8..16].copy_from_slice(&timestamp.to_le_bytes());
    for (at, part) in [(16, key), (20, Some(headers)), (24, value)] {
        let length = part.map_or(-1, |part| i32::try_from(part.len()).unwrap_or(i32::MAX));
        fixed[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    fixed
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    timestamp: Timestamp,
    /// Where the key begins in the arena, and where key, headers and value end.
    start: usize,
    key: usize,
    headers: usize,
    value: usize,
    has_key: bool,
    has_value: bool,
}

/// The memory of a batch.
#[derive(Default)]
struct Buffer {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

/// At most so many buffers are kept, and none that is larger.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 512 << 10;

/// Buffers of batches that were let go, used again: the allocator gives and takes memory of that size page by page.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Buffer>>);

impl Buffers {
    fn take(&self) -> Buffer {
        lock(&self.0).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Buffer) {
        if buffer.arena.capacity() > KEPT_BYTES {
            return;
        }
        buffer.arena.clear();
        buffer.entries.clear();
        let mut kept = lock(&self.0);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffers({} free)", lock(&self.0).len())
    }
}

/// Records of one partition, copied into one arena.
pub(crate) struct EmbeddedBatch {
    partition: PartitionId,
    buffer: Buffer,
    buffers: Arc<Buffers>,
}

impl Drop for EmbeddedBatch {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.buffer));
    }
}

impl EmbeddedBatch {
    pub(crate) fn new(partition: PartitionId, buffers: &Arc<Buffers>) -> Self {
        Self { partition, buffer: buffers.take(), buffers: Arc::clone(buffers) }
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
        let Buffer { arena, entries } = &mut self.buffer;
        let whole = arena.len();
        // All that the checksum covers in one piece, which is faster than in four.
        arena.extend_from_slice(&fixed(id, timestamp, key, headers, value));
        let start = arena.len();
        arena.extend_from_slice(key.unwrap_or_default());
        let key_end = arena.len();
        arena.extend_from_slice(headers);
        let headers_end = arena.len();
        arena.extend_from_slice(value.unwrap_or_default());
        if crc32fast::hash(&arena[whole..]) != crc
            && !aqueduct_core::planted("embedded-checksum-not-compared")
        {
            arena.truncate(whole);
            return false;
        }
        entries.push(Entry {
            offset: offset_of(id),
            timestamp: Timestamp::from_micros(timestamp),
            start,
            key: key_end,
            headers: headers_end,
            value: arena.len(),
            has_key: key.is_some(),
            has_value: value.is_some(),
        });
        true
    }

    /// Bytes of all records.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.arena.len()
    }

    /// How many records.
    pub(crate) fn records(&self) -> usize {
        self.buffer.entries.len()
    }

    /// The offset of the last record.
    pub(crate) fn last(&self) -> Option<Offset> {
        self.buffer.entries.last().map(|entry| entry.offset)
    }

    fn entry(&self, index: usize) -> &Entry {
        &self.buffer.entries[index]
    }
}

impl fmt::Debug for EmbeddedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedBatch({} records of {})", self.records(), self.partition)
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
        self.records()
    }

    fn offset(&self, index: usize) -> Offset {
        self.entry(index).offset
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        self.entry(index).timestamp
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        let entry = self.entry(index);
        entry.has_key.then(|| &self.buffer.arena[entry.start..entry.key])
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        let entry = self.entry(index);
        entry.has_value.then(|| &self.buffer.arena[entry.headers..entry.value])
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        let entry = self.entry(index);
        HeaderBlock(&self.buffer.arena[entry.key..entry.headers]).for_each(visit);
    }
}
