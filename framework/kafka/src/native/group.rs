//! A group's generation, and commits whose results are told.

use std::{ptr, ptr::NonNull, sync::Arc, time::Duration};

use rdkafka::{TopicPartitionList, bindings as sys, types::RDKafkaErrorCode};

use super::{Native, Queue, owned, slice};

/// Proof of a membership in a group's generation.
pub(crate) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: a copy of its own, never written.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above.
unsafe impl Sync for GroupMetadata {}

impl GroupMetadata {
    /// Of a consumer, as of now; none where it has no group.
    pub(crate) fn of(consumer: &dyn Native) -> Option<Self> {
        // SAFETY: the client is valid; the copy is ours.
        NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(consumer.pointer()) }).map(Self)
    }

    /// Of somebody who belongs to no generation of this group: for a planted bug.
    pub(crate) fn nobodys(group: &str) -> Option<Self> {
        let group = std::ffi::CString::new(group).ok()?;
        // SAFETY: the text is valid for the call, which copies it.
        NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata_new(group.as_ptr()) }).map(Self)
    }

    /// The group's generation; -1 outside one.
    pub(crate) fn generation(&self) -> i32 {
        // SAFETY: valid, and only read.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: given back once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

/// Commits offsets and waits for each one's result, in the list's order.
pub(crate) fn commit(
    consumer: Arc<dyn Native>,
    offsets: &TopicPartitionList,
    timeout: Duration,
) -> Result<Vec<RDKafkaErrorCode>, RDKafkaErrorCode> {
    let queue = Queue::new(consumer)?;
    // SAFETY: client, list and queue are valid; the list is copied; without a callback the result goes to the queue.
    let asked = unsafe {
        sys::rd_kafka_commit_queue(
            queue.client.pointer(),
            offsets.ptr(),
            queue.pointer.as_ptr(),
            None,
            ptr::null_mut(),
        )
    };
    if RDKafkaErrorCode::from(asked) != RDKafkaErrorCode::NoError {
        return Err(asked.into());
    }
    let event = queue.poll(timeout).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
    // SAFETY: the list belongs to the event, which lives here; null where there is none.
    let results = unsafe {
        let list = sys::rd_kafka_event_topic_partition_list(event.0.as_ptr());
        if list.is_null() { &[] } else { slice((*list).elems, usize::try_from((*list).cnt).unwrap_or(0)) }
    };
    let failed = event.error().err().map(|(code, _)| code);
    if results.len() != offsets.count() {
        return Err(failed.unwrap_or(RDKafkaErrorCode::Fail));
    }
    let results: Vec<_> = results.iter().map(|result| result.err.into()).collect();
    match failed {
        // The whole request failed and nothing says which part.
        Some(code) if results.iter().all(|result| *result == RDKafkaErrorCode::NoError) => Err(code),
        _ => Ok(results),
    }
}

/// Why a call of a transaction failed.
#[derive(Debug)]
pub(crate) struct TransactionError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) message: String,
}

/// Adds offsets of a consumer to the transaction of a producer.
pub(crate) fn send_offsets(
    producer: &dyn Native,
    offsets: &TopicPartitionList,
    member: &GroupMetadata,
    timeout: Duration,
) -> Result<(), TransactionError> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: all are valid for the call, which copies what it keeps. The error is ours.
    unsafe {
        let error = sys::rd_kafka_send_offsets_to_transaction(
            producer.pointer(),
            offsets.ptr(),
            member.0.as_ptr(),
            millis,
        );
        if error.is_null() {
            return Ok(());
        }
        let failed = TransactionError {
            code: sys::rd_kafka_error_code(error).into(),
            message: owned(sys::rd_kafka_error_string(error)),
        };
        sys::rd_kafka_error_destroy(error);
        Err(failed)
    }
}
