//! A parked record as its topic holds it: key and value of the log record.
//!
//! The key is the source topic's id (16 bytes) and the source offset (8 bytes, big-endian). The value is a frame:
//! `[u8 format = 1][u32 LE length of the description][description, JSON][key][headers][value]`, where the description
//! says how long the parts are; headers are a block as [`Headers`] keeps it. A record without a value is an end mark.

use aqueduct_core::{BoxError, Headers, Record, Timestamp, TopicName, log::Offset, record::OwnedRecord};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The newest format that is written and read.
const FORMAT: u8 = 1;

/// What a frame says beside the record's own bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// Why it was parked.
    pub(crate) reason: String,
    /// How often it was attempted; 0 for a successor.
    pub(crate) attempts: u32,
    /// The record's own timestamp, in microseconds; the copy carries the time of parking.
    timestamp: Timestamp,
    /// When the key is released by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) due: Option<Timestamp>,
    key: Option<usize>,
    headers: usize,
    value: Option<usize>,
}

/// The key of the copy of a record.
pub(crate) fn key(topic: Uuid, offset: Offset) -> Bytes {
    let mut key = BytesMut::with_capacity(24);
    key.put_slice(topic.as_bytes());
    key.put_i64(offset);
    key.freeze()
}

/// The source offset in a key, where it is of this topic.
pub(crate) fn source_offset(key: &[u8], topic: Uuid) -> Option<Offset> {
    let offset = key.strip_prefix(topic.as_bytes())?;
    Some(Offset::from_be_bytes(offset.try_into().ok()?))
}

/// Frames a record.
pub(crate) fn write(
    record: &Record,
    reason: &str,
    attempts: u32,
    due: Option<Timestamp>,
) -> Result<Bytes, serde_json::Error> {
    let headers = record.headers().build();
    let description = serde_json::to_vec(&Description {
        reason: reason.to_owned(),
        attempts,
        timestamp: record.timestamp(),
        due,
        key: record.key().map(<[u8]>::len),
        headers: headers.as_block().len(),
        value: record.value().map(<[u8]>::len),
    })?;
    let mut frame = BytesMut::with_capacity(5 + description.len() + record.size() + 64);
    frame.put_u8(FORMAT);
    frame.put_u32_le(u32::try_from(description.len()).unwrap_or(u32::MAX));
    frame.put_slice(&description);
    frame.put_slice(record.key().unwrap_or_default());
    frame.put_slice(headers.as_block());
    frame.put_slice(record.value().unwrap_or_default());
    Ok(frame.freeze())
}

/// What a frame holds.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) description: Description,
    pub(crate) key: Option<Bytes>,
    headers: Headers,
    value: Option<Bytes>,
}

/// Reads a frame.
pub(crate) fn read(frame: &[u8]) -> Result<Frame, BoxError> {
    let cut = "it is cut short";
    let (format, rest) = frame.split_first().ok_or(cut)?;
    if *format != FORMAT {
        return Err(format!("its format is {format}, this version knows {FORMAT}").into());
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length))?;
    let (description, mut rest) = rest.split_at_checked(length).ok_or(cut)?;
    let description: Description = serde_json::from_slice(description)?;
    let mut part = |length: usize| {
        let (part, after) = rest.split_at_checked(length).ok_or(cut)?;
        rest = after;
        Ok::<_, BoxError>(Bytes::copy_from_slice(part))
    };
    let key = description.key.map(&mut part).transpose()?;
    let headers = Headers::from_block(part(description.headers)?);
    let value = description.value.map(&mut part).transpose()?;
    Ok(Frame { description, key, headers, value })
}

impl Frame {
    /// The record as it stood in its topic.
    pub(crate) fn into_record(self, topic: TopicName, partition: i32, offset: Offset) -> Record {
        let Self { description, key, headers, value } = self;
        let timestamp = description.timestamp;
        OwnedRecord { topic, partition, offset, timestamp, key, headers, value }.into()
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_core::record::HeadersBuilder;

    use super::*;

    fn original(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Record {
        let mut headers = HeadersBuilder::new();
        headers.push(b"a", Some(b"1"));
        headers.push(b"a", None);
        OwnedRecord {
            topic: TopicName::new("t").unwrap(),
            partition: 3,
            offset: 7,
            timestamp: Timestamp::from_micros(-5),
            key: key.map(Bytes::from_static),
            headers: headers.build(),
            value: value.map(Bytes::from_static),
        }
        .into()
    }

    /// P6: byte for byte. Red when an empty part is read as a missing one.
    #[test]
    fn a_frame_gives_the_record_back() {
        for (key, value) in [(Some(&b"k\xff"[..]), Some(&b"v"[..])), (Some(b""), None), (None, Some(b""))] {
            let record = original(key, value);
            let frame = write(&record, "no", 3, Some(Timestamp::from_micros(9))).unwrap();
            let read = read(&frame).unwrap();
            assert_eq!((&*read.description.reason, read.description.attempts), ("no", 3));
            assert_eq!(read.description.due, Some(Timestamp::from_micros(9)));
            let back = read.into_record(record.topic().clone(), 3, 7);
            assert_eq!((back.key(), back.value(), back.timestamp()), (key, value, record.timestamp()));
            assert_eq!(back.headers().build(), record.headers().build());
        }
    }

    /// P12. Red when a length is trusted.
    #[test]
    fn a_damaged_frame_is_an_error() {
        let frame = write(&original(Some(b"key"), Some(b"value")), "no", 1, None).unwrap();
        for cut in 0..frame.len() {
            assert!(read(&frame[..cut]).is_err(), "{cut}");
        }
        let mut newer = frame.to_vec();
        newer[0] = 2;
        assert_eq!(read(&newer).unwrap_err().to_string(), "its format is 2, this version knows 1");
    }

    #[test]
    fn keys_name_topic_and_offset() {
        let topic = Uuid::from_u128(1);
        let key = key(topic, 258);
        assert_eq!(source_offset(&key, topic), Some(258));
        assert_eq!(source_offset(&key, Uuid::from_u128(2)), None);
        assert_eq!(source_offset(&key[..20], topic), None);
    }
}
