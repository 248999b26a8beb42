//! What the tests share.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, NewRecord, Record, Timestamp, TopicName,
    log::{Assignment, CommitLog, Consumer, Outcomes, PartitionId, Producer, Settlement, Signal, Start},
};
use aqueduct_memory::MemoryLog;
use bytes::Bytes;
use tokio::sync::oneshot;

pub(crate) fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

pub(crate) fn zero() -> PartitionId {
    PartitionId { topic: topic(), partition: 0 }
}

pub(crate) fn record(key: &'static str, value: &'static str) -> NewRecord {
    NewRecord {
        topic: topic(),
        partition: None,
        key: Some(Bytes::from_static(key.as_bytes())),
        headers: Headers::default(),
        value: Some(Bytes::from_static(value.as_bytes())),
        timestamp: Timestamp::from_millis(0),
    }
}

pub(crate) fn enqueue(producer: &Arc<dyn Producer>, batch: Vec<NewRecord>) -> oneshot::Receiver<Outcomes> {
    let (sender, receiver) = oneshot::channel();
    producer.enqueue(batch, Box::new(move |outcomes| sender.send(outcomes).unwrap()));
    receiver
}

pub(crate) async fn append(log: &MemoryLog, batch: Vec<NewRecord>) -> Outcomes {
    enqueue(&log.producer().await.unwrap(), batch).await.unwrap()
}

/// The values of partition 0 from the first there is, without waiting.
pub(crate) async fn values(log: &MemoryLog) -> Vec<String> {
    let end = log.end_offsets(&topic()).await.unwrap()[0];
    let mut reader = log.cursor(&zero(), Start::Earliest).await.unwrap();
    let mut values = Vec::new();
    while reader.position() < end {
        let batch = reader.read(100).await.unwrap();
        values.extend(
            Record::all(&batch).map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned()),
        );
    }
    values
}

pub(crate) async fn join(log: &MemoryLog) -> Arc<dyn Consumer> {
    log.consumer("g", &[topic()]).await.unwrap()
}

pub(crate) async fn signal(consumer: &Arc<dyn Consumer>) -> Signal {
    tokio::time::timeout(Duration::from_secs(10), consumer.signal()).await.expect("a signal").unwrap()
}

pub(crate) async fn assigned(consumer: &Arc<dyn Consumer>) -> Vec<Assignment> {
    match signal(consumer).await {
        Signal::Assigned(assignments) => assignments,
        other => panic!("Assigned was expected, not {other:?}"),
    }
}

pub(crate) fn settlement(assignment: &Assignment, offset: i64) -> Settlement {
    Settlement {
        partition: assignment.partition.clone(),
        generation: assignment.generation,
        offset,
        metadata: String::new(),
    }
}
