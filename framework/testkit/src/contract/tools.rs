//! What the cases share.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{
        Assignment, CommitLog, Consumer, Offset, Outcomes, PartitionId, PartitionReader, Position, Producer,
        Settlement, Signal, Start, TopicSpec,
    },
};
use bytes::Bytes;
use tokio::{sync::oneshot, task::yield_now};

pub(super) type Log = Arc<dyn CommitLog>;

/// How long a case waits for what must come: long enough for a busy machine and for a group of Kafka that members join
/// and leave all at once, never spent by a log that keeps its promises.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time of every record that a case does not give one.
pub(super) const NOON: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Polls a future so many times and leaves it there: none where it is not ready by then.
pub(super) async fn poll<F: Future>(mut future: Pin<&mut F>, times: usize) -> Option<F::Output> {
    for _ in 0..times {
        // Not `select!`, which polls again when its other arm is ready.
        let once = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(output) = once.await {
            return Some(output);
        }
        yield_now().await;
    }
    None
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub(super) fn at(topic: &str, partition: i32) -> PartitionId {
    PartitionId { topic: name(topic), partition }
}

/// A record for a partition of `topic` that its key chooses.
pub(super) fn keyed(topic: &str, key: &str, value: &str) -> NewRecord {
    NewRecord {
        topic: name(topic),
        partition: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::default(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        timestamp: NOON,
    }
}

/// A record without a key for partition 0 of `topic`.
pub(super) fn plain(topic: &str, value: &str) -> NewRecord {
    NewRecord { partition: Some(0), key: None, ..keyed(topic, "", value) }
}

/// A value that makes its record one byte too large for `log`, or more.
pub(super) fn oversized(log: &Log) -> Bytes {
    vec![b'x'; log.capabilities().max_record_bytes + 1].into()
}

pub(super) async fn make_topic(log: &Log, topic: &str, partitions: i32) {
    let spec = TopicSpec { partitions: Some(partitions), ..TopicSpec::new(name(topic)) };
    within("making a topic", log.ensure_topic(spec)).await.unwrap();
}

pub(super) async fn producer(log: &Log) -> Arc<dyn Producer> {
    within("opening a producer", log.producer()).await.unwrap()
}

/// Takes the batch's place now; the outcomes follow.
pub(super) fn enqueue(producer: &Arc<dyn Producer>, batch: Vec<NewRecord>) -> oneshot::Receiver<Outcomes> {
    let (sender, receiver) = oneshot::channel();
    let receipt = move |outcomes| {
        // A case that does not look at the outcomes has dropped the receiver.
        let _ = sender.send(outcomes);
    };
    producer.enqueue(batch, Box::new(receipt));
    receiver
}

pub(super) async fn receipt(outcomes: oneshot::Receiver<Outcomes>) -> Outcomes {
    within("a receipt", outcomes).await.expect("a receipt is given, not dropped")
}

/// Appends a batch of which every record must be acknowledged.
pub(super) async fn append(log: &Log, batch: Vec<NewRecord>) -> Vec<Position> {
    let producer = producer(log).await;
    receipt(enqueue(&producer, batch)).await.into_iter().collect::<Result<_, _>>().unwrap()
}

pub(super) async fn cursor(log: &Log, partition: &PartitionId, start: Start) -> Box<dyn PartitionReader> {
    within("opening a cursor", log.cursor(partition, start)).await.unwrap()
}

/// Reads until there are `count` records; more is a failure of the case.
pub(super) async fn read(reader: &mut dyn PartitionReader, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let what = format!("reading {count} records, {} so far,", records.len());
        let batch = within(&what, reader.read(count - records.len())).await.unwrap();
        assert!(!batch.is_empty(), "a read gives at least one record");
        records.extend(Record::all(&batch));
    }
    assert_eq!(records.len(), count, "a read gives no more than was asked");
    records
}

/// The first `count` records of a partition.
pub(super) async fn first_records(log: &Log, partition: &PartitionId, count: usize) -> Vec<Record> {
    read(&mut *cursor(log, partition, Start::Earliest).await, count).await
}

pub(super) fn text(record: &Record) -> String {
    String::from_utf8(record.value().expect("a value").to_vec()).unwrap()
}

pub(super) fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(text).collect()
}

/// Fails unless partition 0 of `topic` has exactly these values: a last record marks the end.
pub(super) async fn assert_holds(log: &Log, topic: &str, values: &[&str]) {
    append(log, vec![plain(topic, "the end")]).await;
    let mut expected = values.to_vec();
    expected.push("the end");
    assert_eq!(texts(&first_records(log, &at(topic, 0), expected.len()).await), expected);
}

#[track_caller]
pub(super) fn assert_kind<T: std::fmt::Debug>(result: Result<T, LogError>, kind: LogErrorKind) -> String {
    match result {
        Err(error) if error.kind() == kind => error.to_string(),
        other => panic!("{kind:?} was expected, not {other:?}"),
    }
}

#[track_caller]
pub(super) fn assert_out_of_range<T: std::fmt::Debug>(result: Result<T, LogError>) {
    match result {
        Err(error) if matches!(error.kind(), LogErrorKind::OffsetOutOfRange { .. }) => {}
        other => panic!("OffsetOutOfRange was expected, not {other:?}"),
    }
}

pub(super) async fn join(log: &Log, group: &str, topics: &[&str]) -> Arc<dyn Consumer> {
    let topics: Vec<_> = topics.iter().map(|topic| name(topic)).collect();
    within("joining a group", log.consumer(group, &topics)).await.unwrap()
}

pub(super) async fn signal(consumer: &Arc<dyn Consumer>) -> Signal {
    within("a signal", consumer.signal()).await.unwrap()
}

/// Waits until `count` partitions were assigned, in as many signals as the log likes, by number.
pub(super) async fn assigned(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    while assignments.len() < count {
        match signal(consumer).await {
            Signal::Assigned(more) => assignments.extend(more),
            other => panic!("Assigned was expected, not {other:?}"),
        }
    }
    assert_eq!(assignments.len(), count, "no more partitions than there are: {assignments:?}");
    assignments.sort_by(|a, b| a.partition.cmp(&b.partition));
    assignments
}

/// Waits until `count` partitions are asked back.
pub(super) async fn revoking(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<PartitionId> {
    let mut partitions = Vec::new();
    while partitions.len() < count {
        match signal(consumer).await {
            Signal::Revoking(more) => partitions.extend(more),
            other => panic!("Revoking was expected, not {other:?}"),
        }
    }
    partitions
}

pub(super) fn settlement(assignment: &Assignment, offset: Offset) -> Settlement {
    Settlement {
        partition: assignment.partition.clone(),
        generation: assignment.generation,
        offset,
        metadata: "aq1:contract".to_owned(),
    }
}

pub(super) async fn settle(
    consumer: &Arc<dyn Consumer>,
    assignment: &Assignment,
    offset: Offset,
) -> Result<(), LogError> {
    let mut results = within("settling", consumer.settle(vec![settlement(assignment, offset)])).await;
    assert_eq!(results.len(), 1, "each settlement has its own result");
    results.remove(0)
}

/// The settled offset that an assignment begins with.
pub(super) fn begins(assignment: &Assignment) -> Option<Offset> {
    assignment.settled.as_ref().map(|settled| settled.offset)
}

pub(super) async fn settled(log: &Log, group: &str, topic: &str) -> Vec<Option<Offset>> {
    let settled =
        within("asking for settled offsets", log.settled_offsets(group, &name(topic))).await.unwrap();
    settled.into_iter().map(|settled| Some(settled?.offset)).collect()
}
