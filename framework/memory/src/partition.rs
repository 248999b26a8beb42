//! The records of one partition, with retention and compaction.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, RecordBatch, Timestamp, TopicName,
    log::{Offset, PartitionId, Start, TopicSpec},
    record::{HeaderBlock, HeaderRef},
};
use bytes::Bytes;
use tokio::sync::Notify;

/// One stored record.
#[derive(Debug)]
pub(crate) struct Entry {
    offset: Offset,
    record: NewRecord,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    entries: BTreeMap<Offset, Arc<Entry>>,
    /// Below this, retention removed everything.
    first: Offset,
    end: Offset,
    bytes: u64,
    newest: Option<Timestamp>,
    /// Where the last record of each key is; kept on compacted topics only.
    last_of_key: BTreeMap<Bytes, Offset>,
    /// Every record that was ever stored, where someone wants to know.
    journal: Option<Vec<Arc<Entry>>>,
    /// Offsets that cannot be read.
    damaged: Vec<Range<Offset>>,
    grown: Arc<Notify>,
}

impl Partition {
    /// A partition that keeps a journal, or not.
    pub(crate) fn new(journal: bool) -> Self {
        Self { journal: journal.then(Vec::new), ..Self::default() }
    }

    /// Every record that was ever stored; none without a journal.
    pub(crate) fn journal(&self) -> &[Arc<Entry>] {
        self.journal.as_deref().unwrap_or_default()
    }

    /// The offset after the last record.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// Told whenever there is more to read, or the log was closed.
    pub(crate) fn grown(&self) -> &Arc<Notify> {
        &self.grown
    }

    /// Stores a record, then removes what `spec` does not keep.
    pub(crate) fn append(&mut self, record: NewRecord, spec: &TopicSpec) -> Offset {
        let offset = self.end;
        self.end += 1;
        self.bytes += size_of(&record);
        self.newest = self.newest.max(Some(record.timestamp));
        if spec.compacted
            && let Some(key) = &record.key
            && let Some(older) = self.last_of_key.insert(key.clone(), offset)
        {
            self.remove(older);
        }
        let entry = Arc::new(Entry { offset, record });
        if let Some(journal) = &mut self.journal {
            journal.push(Arc::clone(&entry));
        }
        self.entries.insert(offset, entry);
        self.retain(spec);
        self.grown.notify_waiters();
        offset
    }

    /// Removes the oldest records while they are too old or too many bytes; the newest one stays.
    fn retain(&mut self, spec: &TopicSpec) {
        let oldest_kept = spec.retention.and_then(|age| Some(self.newest?.saturating_sub(age)));
        while self.entries.len() > 1
            && let Some((offset, entry)) = self.entries.first_key_value()
        {
            let too_old = oldest_kept.is_some_and(|kept| entry.record.timestamp < kept);
            let too_many = spec.retention_bytes.is_some_and(|limit| self.bytes > limit);
            if !too_old && !too_many {
                break;
            }
            self.delete_before(offset + 1);
        }
    }

    /// Removes every record below `offset`, as retention does; readers below it find `OffsetOutOfRange`.
    pub(crate) fn delete_before(&mut self, offset: Offset) {
        self.first = self.first.max(offset.min(self.end));
        while let Some((oldest, _)) = self.entries.first_key_value()
            && *oldest < self.first
        {
            let oldest = *oldest;
            self.remove(oldest);
        }
    }

    fn remove(&mut self, offset: Offset) {
        let Some(entry) = self.entries.remove(&offset) else { return };
        self.bytes -= size_of(&entry.record);
        if let Some(key) = &entry.record.key
            && self.last_of_key.get(key) == Some(&offset)
        {
            self.last_of_key.remove(key);
        }
    }

    /// The offset at which reading from `start` begins.
    pub(crate) fn resolve(&self, start: Start) -> Offset {
        match start {
            Start::Offset(offset) => offset,
            Start::Earliest => self.first,
            Start::Latest => self.end,
            Start::Time(time) => self
                .entries
                .values()
                .find(|entry| entry.record.timestamp >= time)
                .map_or(self.end, |entry| entry.offset),
        }
    }

    /// At most `max` records from `offset` on; none where there is nothing yet.
    pub(crate) fn read(
        &self,
        id: &PartitionId,
        offset: Offset,
        max: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        if offset < self.first || offset > self.end {
            return Err(self.out_of_range(id, offset));
        }
        if let Some(range) = self.damaged.iter().find(|range| range.contains(&offset)) {
            let (first, end) = (offset, range.end);
            let message = format!("{id} at offset {first}: damaged on command");
            return Err(LogError::new(LogErrorKind::Unreadable { first, end }, message));
        }
        let damaged = self.damaged.iter().map(|range| range.start).filter(|start| *start > offset).min();
        let readable = self.entries.range(offset..damaged.unwrap_or(Offset::MAX));
        Ok(readable.take(max.max(1)).map(|(_, entry)| Arc::clone(entry)).collect())
    }

    /// What is at these offsets cannot be read any more.
    pub(crate) fn damage(&mut self, offsets: Range<Offset>) {
        self.damaged.push(offsets);
        self.grown.notify_waiters();
    }

    pub(crate) fn out_of_range(&self, id: &PartitionId, offset: Offset) -> LogError {
        let (first, end) = (self.first, self.end);
        LogError::new(
            LogErrorKind::OffsetOutOfRange { first, end },
            format!("{id}: offset {offset} is not in the log, which has {first} to {end} (exclusive)"),
        )
    }
}

fn size_of(record: &NewRecord) -> u64 {
    u64::try_from(record.size()).unwrap_or(u64::MAX)
}

/// What one read returned.
#[derive(Debug)]
pub(crate) struct Batch {
    id: PartitionId,
    entries: Vec<Arc<Entry>>,
    next: Offset,
}

impl Batch {
    /// Wraps what was read, unless it was nothing.
    pub(crate) fn new(id: PartitionId, entries: Vec<Arc<Entry>>) -> Option<Self> {
        let next = entries.last()?.offset + 1;
        Some(Self { id, entries, next })
    }

    /// The offset after the last record of it.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }
}

impl RecordBatch for Batch {
    fn topic(&self) -> &TopicName {
        &self.id.topic
    }

    fn partition(&self) -> i32 {
        self.id.partition
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn offset(&self, index: usize) -> Offset {
        self.entries[index].offset
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        self.entries[index].record.timestamp
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.entries[index].record.key.as_deref()
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        self.entries[index].record.value.as_deref()
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        HeaderBlock(self.entries[index].record.headers.as_block()).for_each(visit);
    }
}
