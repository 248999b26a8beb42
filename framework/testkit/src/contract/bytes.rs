//! What comes back is what was written, byte for byte.

use aqueduct_core::{NewRecord, Record, Timestamp, record::HeadersBuilder};
use bytes::Bytes;

use super::tools::*;

/// P6, P1. Red when null and empty are confused, headers change order, or a repeated header is dropped.
pub async fn bytes_come_back_as_written(log: Log) {
    type Header = (&'static [u8], Option<&'static [u8]>);
    type Case = (Option<&'static [u8]>, Option<&'static [u8]>, &'static [Header]);
    const CASES: [Case; 6] = [
        (None, None, &[]),
        (Some(b""), Some(b""), &[]),
        (None, Some(b""), &[(b"", None)]),
        (Some(b""), None, &[(b"empty", Some(b"")), (b"null", None)]),
        (
            Some(b"\x00\xff/\xfe"),
            Some(b"\xff\x00{\"json\":false}\n"),
            &[
                (b"twice", Some(b"1")),
                (b"other", Some(b"\x00\xff")),
                (b"twice", Some(b"2")),
                (b"twice", None),
            ],
        ),
        (Some(b"key"), Some(b"value"), &[(b"ce_type", Some(b"a.B")), (b"CE_type", Some(b"a.C"))]),
    ];
    make_topic(&log, "t", 1).await;
    let batch = CASES.iter().map(|(key, value, headers)| {
        let mut builder = HeadersBuilder::new();
        for (name, value) in *headers {
            builder.push(name, *value);
        }
        NewRecord {
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: builder.build(),
            ..plain("t", "")
        }
    });
    append(&log, batch.collect()).await;
    let records = first_records(&log, &at("t", 0), CASES.len()).await;
    for (record, (key, value, headers)) in records.iter().zip(CASES) {
        assert_eq!((record.key(), record.value()), (key, value), "null is not empty");
        assert_eq!(headers_of(record), headers, "each header, in order");
    }
}

fn headers_of(record: &Record) -> Vec<(&[u8], Option<&[u8]>)> {
    let mut headers = Vec::new();
    record.visit_headers(&mut |header| headers.push((header.name, header.value)));
    headers
}

/// P7: a replay by time finds what happened then. Red when the log stamps records itself, or loses milliseconds.
pub async fn timestamps_are_kept(log: Log) {
    make_topic(&log, "t", 1).await;
    // Not in order, and one long ago: an import of history keeps its times.
    let times = [1_700_000_000_123, 86_400_001, 1_600_000_000_999].map(Timestamp::from_millis);
    let batch = times.iter().map(|time| NewRecord { timestamp: *time, ..plain("t", "") });
    append(&log, batch.collect()).await;
    let records = first_records(&log, &at("t", 0), times.len()).await;
    assert_eq!(records.iter().map(Record::timestamp).collect::<Vec<_>>(), times);
}
