//! Reading a partition in batches from a queue of its own.
//!
//! By the simple consumer of librdkafka, in a client without a group: nothing pauses, rewinds or forgets a partition but
//! its reader. That the batch call of 2.12.1 moves the *application position* past end marks (librdkafka issue 4844) does
//! no harm here: that position only serves stored offsets and resuming after a pause, and neither is used.

use std::{
    collections::VecDeque,
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::Arc,
    task::{Context, Poll},
};

use aqueduct_core::{log::Offset, record::HeaderRef};
use futures_util::task::AtomicWaker;
use rdkafka::{
    bindings as sys,
    types::{RDKafkaErrorCode, RDKafkaMessage},
};

use super::{Native, Queue, Topic, last_error, owned};

/// How many entries of a queue one call takes.
const BATCH: usize = 128;

/// The records of a partition as they come.
pub(crate) struct Stream {
    /// What was taken off the queue behind an error, in order: it is given once the reader has judged the error. Before
    /// the topic and the queue, which hold the client: messages must not outlive it.
    behind: VecDeque<Message>,
    topic: Topic,
    partition: i32,
    queue: Queue,
    waker: Box<AtomicWaker>,
}

/// What a partition had to give.
#[derive(Default)]
pub(crate) struct Fetched {
    /// Records, in order.
    pub(crate) messages: Messages,
    /// Where the partition ended at that moment, after those records.
    pub(crate) end: Option<Offset>,
    /// What comes after those records is this.
    pub(crate) met: Option<Met>,
}

/// What a partition had instead of a record.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) said: String,
    /// Where; for a batch that cannot be read where it begins, which may be before what was asked for.
    pub(crate) offset: Offset,
    /// It concerns one record: the next one was read.
    pub(crate) alone: bool,
}

impl Stream {
    /// Starts at an offset of the partition.
    pub(crate) fn start(topic: Topic, partition: i32, offset: Offset) -> Result<Self, RDKafkaErrorCode> {
        let queue = Queue::new(Arc::clone(&topic.client))?;
        let waker = Box::new(AtomicWaker::new());
        // SAFETY: the waker stays where it is, in its box, until `drop` has taken the callback off.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(
                queue.pointer.as_ptr(),
                Some(wake),
                ptr::from_ref(&*waker).cast_mut().cast(),
            );
        }
        let stream = Self { behind: VecDeque::new(), topic, partition, queue, waker };
        // SAFETY: topic and queue are valid and of one client.
        let failed = unsafe {
            sys::rd_kafka_consume_start_queue(
                stream.topic.pointer.as_ptr(),
                partition,
                offset,
                stream.queue.pointer.as_ptr(),
            )
        };
        if failed == 0 { Ok(stream) } else { Err(last_error()) }
    }

    /// Up to `max` records, as soon as there is anything.
    pub(crate) fn poll_fetch(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Fetched> {
        if let Some(fetched) = self.fetch(max) {
            return Poll::Ready(fetched);
        }
        self.waker.register(cx.waker());
        // It may have come before the registration.
        self.fetch(max).map_or(Poll::Pending, Poll::Ready)
    }

    fn fetch(&mut self, max: usize) -> Option<Fetched> {
        if self.behind.is_empty() {
            self.take(max);
        }
        if self.behind.is_empty() {
            return None;
        }
        let mut fetched = Fetched::default();
        fetched.messages.list.reserve_exact(self.behind.len());
        fetched.messages.client = Some(Arc::clone(&self.queue.client));
        while let Some(message) = self.behind.pop_front() {
            // SAFETY: the message is valid until it is dropped.
            let (code, offset) = unsafe { ((*message.pointer).err.into(), (*message.pointer).offset) };
            match code {
                RDKafkaErrorCode::NoError => {
                    if let Some(code) = message.damaged
                        && !aqueduct_core::planted("kafka-headers-lost")
                    {
                        let said = "its headers do not parse".to_owned();
                        fetched.met = Some(Met { code, said, offset, alone: true });
                        break;
                    }
                    fetched.messages.list.push(message);
                }
                RDKafkaErrorCode::PartitionEOF => fetched.end = Some(offset),
                _ if aqueduct_core::planted("kafka-reads-past-an-error") => {}
                code => {
                    // SAFETY: the text lives as long as the message.
                    let said = unsafe { owned(sys::rd_kafka_message_errstr(message.pointer)) };
                    fetched.met = Some(Met { code, said, offset, alone: false });
                    break;
                }
            }
        }
        Some(fetched)
    }

    /// Takes up to `max` entries off the queue.
    fn take(&mut self, max: usize) {
        let mut taken = [ptr::null_mut(); BATCH];
        // SAFETY: the queue is valid, and the array has room for as many.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue.pointer.as_ptr(),
                0,
                taken.as_mut_ptr(),
                max.clamp(1, BATCH),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        self.behind.extend(taken.iter().take(count).map(|pointer| Message::new(*pointer)));
    }

    /// Stops fetching. Waits for the client's own thread; dropped without it, the client goes on fetching.
    pub(crate) fn stop(&self) {
        // SAFETY: topic and client are valid. It fails only where nothing was started.
        unsafe { sys::rd_kafka_consume_stop(self.topic.pointer.as_ptr(), self.partition) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the callback runs under the queue's lock, which this call takes: after it, it runs no more.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.pointer.as_ptr(), None, ptr::null_mut()) }
    }
}

/// Called by librdkafka, under the queue's lock, when an empty queue got something.
unsafe extern "C" fn wake(_: *mut sys::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: `Stream` keeps the waker until the callback is off.
    unsafe { &*waker.cast::<AtomicWaker>() }.wake();
}

/// Records that stay in the client's memory until they are dropped.
#[derive(Default)]
pub(crate) struct Messages {
    list: Vec<Message>,
    /// After the list, so that it is dropped last.
    client: Option<Arc<dyn Native>>,
}

/// A message, and its headers once they were parsed.
struct Message {
    pointer: *mut RDKafkaMessage,
    headers: *mut sys::rd_kafka_headers_t,
    /// Why they cannot be parsed.
    damaged: Option<RDKafkaErrorCode>,
}

// SAFETY: a message belongs to nobody but its holder, and may be destroyed from any thread.
unsafe impl Send for Message {}
// SAFETY: after `new` has parsed the headers, nothing writes to it.
unsafe impl Sync for Message {}

impl Message {
    fn new(pointer: *mut RDKafkaMessage) -> Self {
        let mut headers = ptr::null_mut();
        // Parsed now: librdkafka parses at the first call, which two threads must not do at once.
        // SAFETY: the message is valid and nobody else's.
        let parsed = unsafe { sys::rd_kafka_message_headers(pointer, &raw mut headers) };
        let code = RDKafkaErrorCode::from(parsed);
        let damaged =
            Some(code).filter(|code| !matches!(code, RDKafkaErrorCode::NoError | RDKafkaErrorCode::NoEnt));
        Self { pointer, headers, damaged }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: given back once; the headers are part of it.
        unsafe { sys::rd_kafka_message_destroy(self.pointer) }
    }
}

impl Messages {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    fn at(&self, index: usize) -> &RDKafkaMessage {
        // SAFETY: the message lives as long as `self`, and is only read.
        unsafe { &*self.list[index].pointer }
    }

    pub(crate) fn offset(&self, index: usize) -> Offset {
        self.at(index).offset
    }

    pub(crate) fn millis(&self, index: usize) -> i64 {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid and only read.
        unsafe { sys::rd_kafka_message_timestamp(self.at(index), &raw mut kind) }
    }

    pub(crate) fn key(&self, index: usize) -> Option<&[u8]> {
        let message = self.at(index);
        // SAFETY: key and length belong together and live as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    pub(crate) fn value(&self, index: usize) -> Option<&[u8]> {
        let message = self.at(index);
        // SAFETY: as the key.
        unsafe { bytes(message.payload, message.len) }
    }

    pub(crate) fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        let headers = self.list[index].headers;
        if headers.is_null() {
            return;
        }
        for number in 0.. {
            let (mut name, mut value, mut size): (*const c_char, *const c_void, usize) =
                (ptr::null(), ptr::null(), 0);
            // SAFETY: the list is the message's, parsed, and only read; what it gives lives as long as the message.
            let header = unsafe {
                let found = sys::rd_kafka_header_get_all(
                    headers,
                    number,
                    &raw mut name,
                    &raw mut value,
                    &raw mut size,
                );
                if RDKafkaErrorCode::from(found) != RDKafkaErrorCode::NoError {
                    return;
                }
                HeaderRef { name: CStr::from_ptr(name).to_bytes(), value: bytes(value, size) }
            };
            visit(header);
        }
    }
}

/// # Safety
/// `pointer` is null, or points to `size` bytes that live for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size) })
}
