//! The one place with `unsafe`: what rdkafka does not wrap, or wraps at a price. Everything here is safe to call.
//!
//! Invariants: a pointer into a client lives in a value that also holds the client (`Arc<dyn Native>`), so the client is
//! destroyed last. librdkafka's objects may be used from any thread unless its header says otherwise.

mod admin;
#[cfg(test)]
mod conf;
mod fetch;
mod group;
mod produce;

use std::{
    ffi::{CStr, CString, c_char},
    ptr::NonNull,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    bindings as sys,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    producer::{BaseProducer, Producer, ProducerContext},
    types::{RDKafka, RDKafkaErrorCode},
};

pub(crate) use admin::{add_partitions, configs, create_topic, describe_topic};
#[cfg(test)]
pub(crate) use conf::description;
pub(crate) use fetch::{Fetched, Messages, Met, Stream};
pub(crate) use group::{GroupMetadata, TransactionError, commit, send_offsets};
pub(crate) use produce::produce;

/// A client of librdkafka.
pub(crate) trait Native: Send + Sync {
    /// The client; it lives as long as `self`.
    fn pointer(&self) -> *mut RDKafka;
}

impl<C: ConsumerContext> Native for BaseConsumer<C> {
    fn pointer(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext> Native for BaseProducer<C> {
    fn pointer(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

/// A topic of a client, looked up once.
pub(crate) struct Topic {
    pointer: NonNull<sys::rd_kafka_topic_t>,
    client: Arc<dyn Native>,
}

// SAFETY: topic handles are counted references, and librdkafka locks what is behind them.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

impl Topic {
    pub(crate) fn new(client: Arc<dyn Native>, name: &str) -> Result<Self, RDKafkaErrorCode> {
        let name = text(name)?;
        // SAFETY: both pointers are valid for the call; without a configuration the client's default is copied.
        let pointer =
            unsafe { sys::rd_kafka_topic_new(client.pointer(), name.as_ptr(), std::ptr::null_mut()) };
        NonNull::new(pointer).map(|pointer| Self { pointer, client }).ok_or_else(last_error)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `rd_kafka_topic_new`, is given back once, and the client still lives.
        unsafe { sys::rd_kafka_topic_destroy(self.pointer.as_ptr()) }
    }
}

/// A queue of its own for replies or records.
struct Queue {
    pointer: NonNull<sys::rd_kafka_queue_t>,
    client: Arc<dyn Native>,
}

// SAFETY: a queue is a counted reference to a queue with a lock.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    fn new(client: Arc<dyn Native>) -> Result<Self, RDKafkaErrorCode> {
        // SAFETY: the client is valid for the call.
        let pointer = unsafe { sys::rd_kafka_queue_new(client.pointer()) };
        NonNull::new(pointer).map(|pointer| Self { pointer, client }).ok_or(RDKafkaErrorCode::Fail)
    }

    /// Waits for the next event.
    fn poll(&self, timeout: Duration) -> Option<Event> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is valid.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.pointer.as_ptr(), millis) }).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the reference is given back once, and the client still lives.
        unsafe { sys::rd_kafka_queue_destroy(self.pointer.as_ptr()) }
    }
}

/// What was polled off a queue.
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    /// Whether the whole request failed, and what the client says of it.
    fn error(&self) -> Result<(), (RDKafkaErrorCode, String)> {
        // SAFETY: the event is valid, and the text lives as long as it.
        let (code, said) = unsafe {
            let code = sys::rd_kafka_event_error(self.0.as_ptr());
            (RDKafkaErrorCode::from(code), owned(sys::rd_kafka_event_error_string(self.0.as_ptr())))
        };
        if code == RDKafkaErrorCode::NoError { Ok(()) } else { Err((code, said)) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is owned and given back once.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// What a call that failed left for its thread.
fn last_error() -> RDKafkaErrorCode {
    // SAFETY: reads a value of this thread.
    unsafe { sys::rd_kafka_last_error() }.into()
}

fn text(text: &str) -> Result<CString, RDKafkaErrorCode> {
    CString::new(text).map_err(|_| RDKafkaErrorCode::InvalidArgument)
}

/// Copies a text of the library, none where there is none.
///
/// # Safety
/// `pointer` is null, or a text that ends with a zero.
unsafe fn owned(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// An array of the library as a slice, where an empty one may be null.
///
/// # Safety
/// `pointer` points to `count` valid values that live for `'a`, or `count` is 0.
unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(pointer, count) }
}
