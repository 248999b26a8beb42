//! Records: key, value, headers, partition, offset and timestamp, as the log stores them.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{environment::Timestamp, log::Offset, name::TopicName};

/// One header of a record, borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The name's bytes: text by convention, but another client may write anything.
    pub name: &'a [u8],
    /// The value; Kafka allows null.
    pub value: Option<&'a [u8]>,
}

impl fmt::Debug for HeaderRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name.escape_ascii(), self.value.unwrap_or(b"<null>").escape_ascii())
    }
}

/// The headers of one record in one block, in order, repeats included: `[u16 LE name length][name]`
/// `[i32 LE value length, -1 for null][value]`, repeated.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Bytes);

impl Headers {
    /// Takes a block that [`Headers::as_block`] gave.
    #[must_use]
    pub fn from_block(block: Bytes) -> Self {
        Self(block)
    }

    /// The block.
    #[must_use]
    pub fn as_block(&self) -> &Bytes {
        &self.0
    }

    /// The headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = HeaderRef<'_>> {
        HeaderBlock(&self.0)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Reads a header block that lies in a larger buffer. A block that is cut short ends early.
#[derive(Debug, Clone)]
pub struct HeaderBlock<'a>(pub &'a [u8]);

impl<'a> Iterator for HeaderBlock<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = match usize::try_from(i32::from_le_bytes(*length)) {
            Err(_) => (None, rest),
            Ok(length) => {
                let (value, rest) = rest.split_at_checked(length)?;
                (Some(value), rest)
            }
        };
        self.0 = rest;
        Some(HeaderRef { name, value })
    }
}

/// Builds [`Headers`].
#[derive(Debug, Default)]
pub struct HeadersBuilder(Vec<u8>);

impl HeadersBuilder {
    /// A builder with room for the usual four.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(160))
    }

    /// Appends a header. A name over 64 KiB or a value over 2 GiB cannot be on a record; it is cut.
    pub fn push(&mut self, name: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => put_header(&mut self.0, name, |block| block.extend_from_slice(value)),
            None => {
                put_name(&mut self.0, name);
                self.0.extend_from_slice(&NULL);
            }
        }
    }

    /// The headers.
    #[must_use]
    pub fn build(self) -> Headers {
        Headers(self.0.into())
    }
}

/// The length of a null value.
const NULL: [u8; 4] = (-1_i32).to_le_bytes();

/// Appends a header to a block; `value` appends its value.
pub(crate) fn put_header(block: &mut Vec<u8>, name: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
    put_name(block, name);
    block.extend_from_slice(&NULL);
    let start = block.len();
    value(block);
    let length = i32::try_from(block.len() - start).unwrap_or(i32::MAX);
    block.truncate(start.saturating_add(usize::try_from(length).unwrap_or(0)));
    block[start - NULL.len()..start].copy_from_slice(&length.to_le_bytes());
}

fn put_name(block: &mut Vec<u8>, name: &[u8]) {
    let name = &name[..name.len().min(usize::from(u16::MAX))];
    block.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    block.extend_from_slice(name);
}

/// A record on its way to the log.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Where it goes.
    pub topic: TopicName,
    /// The partition, or none: by the key's murmur2, or spread where there is no key.
    pub partition: Option<i32>,
    /// The key's bytes.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The payload; none is a tombstone.
    pub value: Option<Bytes>,
    /// When it happened.
    pub timestamp: Timestamp,
}

impl NewRecord {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.as_block().len()
    }
}

/// Records of one partition, in offset order, as one read returned them. Shared by everything in flight from it:
/// no payload is copied between the client and the decoder.
pub trait RecordBatch: Send + Sync + fmt::Debug {
    /// The topic.
    fn topic(&self) -> &TopicName;
    /// The partition.
    fn partition(&self) -> i32;
    /// How many records; indices below run from 0 to this.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The offset of a record. Offsets have holes.
    fn offset(&self, index: usize) -> Offset;
    /// The timestamp of a record.
    fn timestamp(&self, index: usize) -> Timestamp;
    /// The key of a record.
    fn key(&self, index: usize) -> Option<&[u8]>;
    /// The value of a record.
    fn value(&self, index: usize) -> Option<&[u8]>;
    /// Shows each header of a record, in order.
    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>));
    /// Bytes of key, value, and names and values of headers.
    fn size(&self, index: usize) -> usize {
        let mut size = self.key(index).map_or(0, <[u8]>::len) + self.value(index).map_or(0, <[u8]>::len);
        self.visit_headers(index, &mut |header| {
            size += header.name.len() + header.value.map_or(0, <[u8]>::len);
        });
        size
    }
}

/// A record that owns what it holds: a batch of one.
#[derive(Debug, Clone)]
pub struct OwnedRecord {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: Offset,
    /// The timestamp.
    pub timestamp: Timestamp,
    /// The key.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
}

impl From<OwnedRecord> for Record {
    fn from(record: OwnedRecord) -> Self {
        Self { batch: Arc::new(record), index: 0 }
    }
}

impl RecordBatch for OwnedRecord {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn partition(&self) -> i32 {
        self.partition
    }

    fn len(&self) -> usize {
        1
    }

    fn offset(&self, _: usize) -> Offset {
        self.offset
    }

    fn timestamp(&self, _: usize) -> Timestamp {
        self.timestamp
    }

    fn key(&self, _: usize) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn value(&self, _: usize) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn visit_headers<'a>(&'a self, _: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.headers.iter().for_each(visit);
    }
}

/// One record of a batch.
#[derive(Clone)]
pub struct Record {
    batch: Arc<dyn RecordBatch>,
    index: usize,
}

impl Record {
    /// The `index`-th record of `batch`, or none past its end.
    #[must_use]
    pub fn new(batch: Arc<dyn RecordBatch>, index: usize) -> Option<Self> {
        (index < batch.len()).then_some(Self { batch, index })
    }

    /// Goes on to the next record of its batch, or says that there is none.
    pub fn advance(&mut self) -> bool {
        let more = self.index + 1 < self.batch.len();
        self.index += usize::from(more);
        more
    }

    /// All records of a batch.
    pub fn all(batch: &Arc<dyn RecordBatch>) -> impl Iterator<Item = Self> + '_ {
        (0..batch.len()).map(|index| Self { batch: Arc::clone(batch), index })
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.batch.topic()
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.batch.partition()
    }

    /// The offset.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.batch.offset(self.index)
    }

    /// The timestamp.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.batch.timestamp(self.index)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.batch.key(self.index)
    }

    /// The value; none is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.batch.value(self.index)
    }

    /// Shows each header, in order.
    pub fn visit_headers<'a>(&'a self, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.batch.visit_headers(self.index, visit);
    }

    /// The headers, copied.
    #[must_use]
    pub fn headers(&self) -> HeadersBuilder {
        let mut headers = HeadersBuilder::new();
        self.visit_headers(&mut |header| headers.push(header.name, header.value));
        headers
    }

    /// Bytes of key, value, and names and values of headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.batch.size(self.index)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic(), self.partition(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_order_repeats_and_nulls() {
        let mut builder = HeadersBuilder::new();
        builder.push(b"a", Some(b"1"));
        builder.push(b"a", None);
        builder.push(b"\xff", Some(b""));
        let headers = builder.build();
        let read: Vec<_> =
            headers.iter().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(
            read,
            [(b"a".to_vec(), Some(b"1".to_vec())), (b"a".to_vec(), None), (vec![0xff], Some(vec![]))]
        );
        let block = headers.as_block();
        for cut in 0..block.len() {
            assert!(HeaderBlock(&block[..cut]).count() < 3);
        }
    }
}
