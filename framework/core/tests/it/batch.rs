//! A batch of one record.

use std::sync::Arc;

use aqueduct_core::{
    Headers, Record, RecordBatch, Timestamp, TopicName, log::Offset, record::HeaderRef,
    record::HeadersBuilder,
};

#[derive(Debug)]
pub(crate) struct Single {
    topic: TopicName,
    headers: Headers,
    value: Option<Vec<u8>>,
    timestamp: Timestamp,
}

/// A record without a key at offset 7 of `t/0`.
pub(crate) fn record(headers: Headers, value: Option<Vec<u8>>, timestamp: Timestamp) -> Record {
    let topic = TopicName::new("t").unwrap();
    Record::new(Arc::new(Single { topic, headers, value, timestamp }), 0).unwrap()
}

pub(crate) fn headers(list: &[(&[u8], &[u8])]) -> Headers {
    let mut headers = HeadersBuilder::new();
    for (name, value) in list {
        headers.push(name, Some(value));
    }
    headers.build()
}

impl RecordBatch for Single {
    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn partition(&self) -> i32 {
        0
    }

    fn len(&self) -> usize {
        1
    }

    fn offset(&self, _: usize) -> Offset {
        7
    }

    fn timestamp(&self, _: usize) -> Timestamp {
        self.timestamp
    }

    fn key(&self, _: usize) -> Option<&[u8]> {
        None
    }

    fn value(&self, _: usize) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn visit_headers<'a>(&'a self, _: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.headers.iter().for_each(visit);
    }
}
