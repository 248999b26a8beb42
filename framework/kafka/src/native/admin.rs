//! Requests of an administrator that rdkafka does not wrap, or only on a client of its own. They wait: not for a
//! runtime's threads.

use std::{ffi::c_char, ptr, sync::Arc, time::Duration};

use rdkafka::{bindings as sys, types::RDKafkaErrorCode};
use uuid::Uuid;

use super::{Event, Native, Queue, owned, slice, text};

type Failed = (RDKafkaErrorCode, String);

/// A topic, as the cluster has it.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
    /// How many brokers have a copy of each.
    pub(crate) replication: i32,
}

/// A topic's setting.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Options of one kind of request, given back after it.
struct Options(*mut sys::rd_kafka_AdminOptions_t);

impl Options {
    fn new(client: &dyn Native, operation: sys::rd_kafka_admin_op_t, timeout: Duration) -> Self {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client is valid; without a buffer for its text an error is only a code, and this value is in range.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client.pointer(), operation);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
            Self(options)
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: given back once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0) }
    }
}

/// Waits for the answer to a request that was put on the way with this time-out.
fn answer(queue: &Queue, timeout: Duration) -> Result<Event, Failed> {
    // The request's own time-out ends it; the second is for the library's threads.
    let event = queue.poll(timeout + Duration::from_secs(1));
    let event = event.ok_or_else(|| (RDKafkaErrorCode::OperationTimedOut, "no answer".to_owned()))?;
    event.error()?;
    Ok(event)
}

fn failed(code: RDKafkaErrorCode) -> Failed {
    (code, code.to_string())
}

/// # Safety
/// `error` is null or valid.
unsafe fn check(error: *const sys::rd_kafka_error_t) -> Result<(), Failed> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's.
    let (code, said) = unsafe {
        (RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)), owned(sys::rd_kafka_error_string(error)))
    };
    if code == RDKafkaErrorCode::NoError { Ok(()) } else { Err((code, said)) }
}

/// What a topic is.
pub(crate) fn describe_topic(
    client: &Arc<dyn Native>,
    topic: &str,
    timeout: Duration,
) -> Result<Described, Failed> {
    let queue = Queue::new(Arc::clone(client)).map_err(failed)?;
    let options =
        Options::new(&**client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout);
    let name = text(topic).map_err(failed)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: all are valid; the request copies the names.
    unsafe {
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        sys::rd_kafka_DescribeTopics(client.pointer(), topics, options.0, queue.pointer.as_ptr());
        sys::rd_kafka_TopicCollection_destroy(topics);
    }
    let event = answer(&queue, timeout)?;
    // SAFETY: results belong to the event, which lives here; each call may give null.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
        if result.is_null() {
            return Err(failed(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let Some(topic) = slice(topics.cast_const(), count).first() else {
            return Err(failed(RDKafkaErrorCode::UnknownTopicOrPartition));
        };
        check(sys::rd_kafka_TopicDescription_error(*topic))?;
        let mut count = 0;
        let all = sys::rd_kafka_TopicDescription_partitions(*topic, &raw mut count);
        // Partitions that are being moved have more for a while.
        let replicas = slice(all.cast_const(), count).iter().map(|partition| {
            let mut replicas = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*partition, &raw mut replicas);
            replicas
        });
        let replication = i32::try_from(replicas.min().unwrap_or(0)).unwrap_or(i32::MAX);
        let id = sys::rd_kafka_TopicDescription_topic_id(*topic);
        if id.is_null() {
            return Err(failed(RDKafkaErrorCode::UnsupportedVersion));
        }
        let id = Uuid::from_u64_pair(
            sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
            sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
        );
        Ok(Described { id, partitions: i32::try_from(count).unwrap_or(i32::MAX), replication })
    }
}

/// Makes a topic; `replication` of -1 is the cluster's default.
pub(crate) fn create_topic(
    client: &Arc<dyn Native>,
    topic: &str,
    partitions: i32,
    replication: i32,
    configs: &[(&str, String)],
    timeout: Duration,
) -> Result<(), Failed> {
    let queue = Queue::new(Arc::clone(client)).map_err(failed)?;
    let options = Options::new(&**client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout);
    let name = text(topic).map_err(failed)?;
    let mut settings = Vec::with_capacity(configs.len());
    for (name, value) in configs {
        settings.push((text(name).map_err(failed)?, text(value).map_err(failed)?));
    }
    // SAFETY: texts are valid and copied; the new topic is given back after the request has copied it.
    unsafe {
        let new = sys::rd_kafka_NewTopic_new(name.as_ptr(), partitions, replication, ptr::null_mut(), 0);
        if new.is_null() {
            return Err(failed(RDKafkaErrorCode::InvalidArgument));
        }
        for (name, value) in &settings {
            sys::rd_kafka_NewTopic_set_config(new, name.as_ptr(), value.as_ptr());
        }
        let mut all = [new];
        sys::rd_kafka_CreateTopics(
            client.pointer(),
            all.as_mut_ptr(),
            all.len(),
            options.0,
            queue.pointer.as_ptr(),
        );
        sys::rd_kafka_NewTopic_destroy(new);
    }
    let event = answer(&queue, timeout)?;
    // SAFETY: results belong to the event, which lives here.
    unsafe {
        let result = sys::rd_kafka_event_CreateTopics_result(event.0.as_ptr());
        if result.is_null() {
            return Err(failed(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
        made(slice(topics.cast_const(), count))
    }
}

/// Gives a topic so many partitions, which are more than it has.
pub(crate) fn add_partitions(
    client: &Arc<dyn Native>,
    topic: &str,
    partitions: i32,
    timeout: Duration,
) -> Result<(), Failed> {
    let queue = Queue::new(Arc::clone(client)).map_err(failed)?;
    let options =
        Options::new(&**client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS, timeout);
    let name = text(topic).map_err(failed)?;
    let total = usize::try_from(partitions).unwrap_or(0);
    // SAFETY: the text is valid and copied; what is new is given back after the request has copied it.
    unsafe {
        let new = sys::rd_kafka_NewPartitions_new(name.as_ptr(), total, ptr::null_mut(), 0);
        if new.is_null() {
            return Err(failed(RDKafkaErrorCode::InvalidArgument));
        }
        let mut all = [new];
        sys::rd_kafka_CreatePartitions(
            client.pointer(),
            all.as_mut_ptr(),
            all.len(),
            options.0,
            queue.pointer.as_ptr(),
        );
        sys::rd_kafka_NewPartitions_destroy(new);
    }
    let event = answer(&queue, timeout)?;
    // SAFETY: results belong to the event, which lives here.
    unsafe {
        let result = sys::rd_kafka_event_CreatePartitions_result(event.0.as_ptr());
        if result.is_null() {
            return Err(failed(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_CreatePartitions_result_topics(result, &raw mut count);
        made(slice(topics.cast_const(), count))
    }
}

/// What became of each topic of a request.
///
/// # Safety
/// All are valid.
unsafe fn made(topics: &[*const sys::rd_kafka_topic_result_t]) -> Result<(), Failed> {
    for topic in topics {
        // SAFETY: the caller's.
        unsafe {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_topic_result_error(*topic));
            if code != RDKafkaErrorCode::NoError {
                return Err((code, owned(sys::rd_kafka_topic_result_error_string(*topic))));
            }
        }
    }
    Ok(())
}

/// The settings of a topic.
pub(crate) fn configs(
    client: &Arc<dyn Native>,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<Config>, Failed> {
    let queue = Queue::new(Arc::clone(client)).map_err(failed)?;
    let options =
        Options::new(&**client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout);
    let name = text(topic).map_err(failed)?;
    // SAFETY: the resource is given back after the request has copied it.
    unsafe {
        let resource = sys::rd_kafka_ConfigResource_new(
            sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
        );
        let mut all = [resource];
        sys::rd_kafka_DescribeConfigs(
            client.pointer(),
            all.as_mut_ptr(),
            all.len(),
            options.0,
            queue.pointer.as_ptr(),
        );
        sys::rd_kafka_ConfigResource_destroy(resource);
    }
    let event = answer(&queue, timeout)?;
    let mut configs = Vec::new();
    // SAFETY: results belong to the event, which lives here.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConfigs_result(event.0.as_ptr());
        if result.is_null() {
            return Err(failed(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        for resource in slice(resources.cast_const(), count) {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_ConfigResource_error(*resource));
            if code != RDKafkaErrorCode::NoError {
                return Err((code, owned(sys::rd_kafka_ConfigResource_error_string(*resource))));
            }
            let mut count = 0;
            let entries = sys::rd_kafka_ConfigResource_configs(*resource, &raw mut count);
            for entry in slice(entries.cast_const(), count) {
                configs.push(Config {
                    name: owned(sys::rd_kafka_ConfigEntry_name(*entry)),
                    value: owned(sys::rd_kafka_ConfigEntry_value(*entry)),
                });
            }
        }
    }
    Ok(configs)
}
