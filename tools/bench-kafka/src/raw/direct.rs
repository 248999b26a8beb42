//! librdkafka called directly: publishing by a topic handle, reading in batches from one queue.

use std::{
    ffi::{CString, c_void},
    ptr,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use aqueduct::Environment;
use bench::events::Sold;
use rdkafka::{
    ClientConfig,
    bindings::{
        self as sys, RD_KAFKA_MSG_F_COPY, rd_kafka_vtype_t as Kind, rd_kafka_vu_s__bindgen_ty_1 as Value,
        rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as Memory, rd_kafka_vu_t as Argument,
    },
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer},
    types::{RDKafkaErrorCode, RDKafkaMessage},
};

use super::{Encoded, FIXED, IN_FLIGHT};

/// Entries of a queue that one call takes.
const BATCH: usize = 1_024;
/// A run that gets nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// A topic handle, given back when it is dropped; the client outlives it.
struct Topic(*mut sys::rd_kafka_topic_t);

impl Topic {
    fn new(client: *mut sys::rd_kafka_t, name: &str) -> anyhow::Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: client and name are valid for the call; the default configuration is copied.
        let topic = unsafe { sys::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()) };
        ensure!(!topic.is_null(), "cannot use topic {name:?}");
        Ok(Self(topic))
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: given back once, before its client.
        unsafe { sys::rd_kafka_topic_destroy(self.0) }
    }
}

fn memory(bytes: &[u8]) -> Memory {
    Memory { ptr: bytes.as_ptr().cast_mut().cast::<c_void>(), size: bytes.len() }
}

/// Publishes `count` events by a topic handle, and waits until all are stored.
pub(crate) fn publish(
    config: &ClientConfig,
    topic: &str,
    pool: &[Sold],
    count: u64,
    environment: &Environment,
) -> anyhow::Result<()> {
    let producer: BaseProducer = config.create()?;
    let client = producer.client().native_ptr();
    let handle = Topic::new(client, topic)?;
    let mut encoded = Encoded::new();
    for (number, event) in pool.iter().cycle().take(usize::try_from(count)?).enumerate() {
        encoded.set(event, environment)?;
        // SAFETY: a new list of ours; names and values are copied; it is the record's once it was taken.
        let headers = unsafe {
            let headers = sys::rd_kafka_headers_new(4);
            let add = |name: &str, value: &[u8]| {
                sys::rd_kafka_header_add(
                    headers,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value.as_ptr().cast(),
                    value.len() as isize,
                )
            };
            for (name, value) in FIXED {
                add(name, value.as_bytes());
            }
            add("ce_id", &encoded.id);
            headers
        };
        let arguments = [
            Argument { vtype: Kind::RD_KAFKA_VTYPE_RKT, u: Value { rkt: handle.0 } },
            Argument { vtype: Kind::RD_KAFKA_VTYPE_MSGFLAGS, u: Value { i: RD_KAFKA_MSG_F_COPY } },
            Argument { vtype: Kind::RD_KAFKA_VTYPE_VALUE, u: Value { mem: memory(&encoded.value) } },
            Argument { vtype: Kind::RD_KAFKA_VTYPE_KEY, u: Value { mem: memory(event.account.as_bytes()) } },
            Argument { vtype: Kind::RD_KAFKA_VTYPE_TIMESTAMP, u: Value { i64_: encoded.timestamp } },
            Argument { vtype: Kind::RD_KAFKA_VTYPE_HEADERS, u: Value { headers } },
        ];
        // SAFETY: each argument's union holds what its kind says, and bytes are copied during the call.
        let error = unsafe { sys::rd_kafka_produceva(client, arguments.as_ptr(), arguments.len()) };
        if !error.is_null() {
            // The run ends here, so what the error and the headers hold is not given back.
            bail!("an event was refused");
        }
        if number.is_multiple_of(256) {
            producer.poll(Duration::ZERO);
            while producer.in_flight_count() > IN_FLIGHT {
                producer.poll(Duration::from_millis(1));
            }
        }
    }
    producer.flush(PATIENCE)?;
    ensure!(producer.in_flight_count() == 0, "not all events were stored");
    Ok(())
}

/// Reads `partitions` partitions of a topic from their beginning, decodes `count` events and gives each to `each`.
pub(crate) fn consume(
    config: &ClientConfig,
    topic: &str,
    partitions: i32,
    count: u64,
    mut each: impl FnMut(&Sold),
) -> anyhow::Result<()> {
    let consumer: BaseConsumer = config.clone().set("group.id", "bench-raw").create()?;
    let client = consumer.client().native_ptr();
    let handle = Topic::new(client, topic)?;
    // SAFETY: the client is valid; the queue is given back below.
    let queue = unsafe { sys::rd_kafka_queue_new(client) };
    for partition in 0..partitions {
        // SAFETY: handle and queue are valid and of one client.
        let failed = unsafe { sys::rd_kafka_consume_start_queue(handle.0, partition, 0, queue) };
        ensure!(failed == 0, "cannot read {topic}/{partition}");
    }
    let mut taken: [*mut RDKafkaMessage; BATCH] = [ptr::null_mut(); BATCH];
    let (mut seen, mut last) = (0, Instant::now());
    let mut result = Ok(());
    while seen < count && result.is_ok() {
        // SAFETY: the queue is valid and the array has room for as many.
        let got = unsafe { sys::rd_kafka_consume_batch_queue(queue, 100, taken.as_mut_ptr(), BATCH) };
        let got = &taken[..usize::try_from(got).unwrap_or(0)];
        if !got.is_empty() {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            result = Err(anyhow::anyhow!("nothing more came after {seen} of {count} events"));
        }
        for message in got {
            // SAFETY: the message is valid until it is destroyed, and its payload with it.
            let (code, payload) = unsafe {
                let message = &**message;
                let payload = if message.payload.is_null() {
                    &[][..]
                } else {
                    std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len)
                };
                (RDKafkaErrorCode::from(message.err), payload)
            };
            if code == RDKafkaErrorCode::NoError {
                match serde_json::from_slice(payload) {
                    Ok(event) => each(&event),
                    Err(error) => result = Err(error.into()),
                }
                seen += 1;
            } else {
                result = Err(anyhow::anyhow!("cannot read {topic}: {code}"));
            }
            // SAFETY: given back once, and not used after.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
    for partition in 0..partitions {
        // SAFETY: it was started above.
        unsafe { sys::rd_kafka_consume_stop(handle.0, partition) };
    }
    // SAFETY: given back once; nothing refers to it any more.
    unsafe { sys::rd_kafka_queue_destroy(queue) };
    result
}
