//! Records as the client holds them.

use std::fmt;

use aqueduct_core::{RecordBatch, Timestamp, TopicName, log::Offset, log::PartitionId, record::HeaderRef};

use crate::native::Messages;

/// Records of one read: their bytes stay where the client received them.
pub(crate) struct KafkaBatch {
    pub(crate) partition: PartitionId,
    pub(crate) messages: Messages,
}

impl fmt::Debug for KafkaBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records of {}", self.messages.len(), self.partition)
    }
}

impl RecordBatch for KafkaBatch {
    fn topic(&self) -> &TopicName {
        &self.partition.topic
    }

    fn partition(&self) -> i32 {
        self.partition.partition
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn offset(&self, index: usize) -> Offset {
        self.messages.offset(index)
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        Timestamp::from_millis(self.messages.millis(index))
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.messages.key(index)
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        self.messages.value(index)
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.messages.visit_headers(index, visit);
    }
}
