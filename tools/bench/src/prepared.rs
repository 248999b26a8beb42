//! A log whose records are ready before the count begins: the memory log, except that the batches were read before a
//! consumer asks for them, and that an append stores nothing and is acknowledged at once. What is counted with it is
//! the framework's own, and what the port asks of any log: one boxed future and one batch per read, one vector of
//! outcomes per append.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use aqueduct::{
    LogError, Timestamp, TopicName,
    core::{
        BoxFuture, NewRecord, RecordBatch,
        log::{
            Assignment, Capabilities, CommitLog, Consumer, GroupToken, Offset, PartitionId, PartitionReader,
            Position, Producer, Receipt, Settled, Settlement, Signal, Start, TopicInfo, TopicSpec,
            TransactionalProducer,
        },
        record::HeaderRef,
    },
    memory::MemoryLog,
};

type Batches = VecDeque<(Arc<dyn RecordBatch>, Offset)>;

/// The log.
#[derive(Debug)]
pub struct Prepared {
    log: MemoryLog,
    batches: Arc<Mutex<BTreeMap<PartitionId, Batches>>>,
    live: Arc<AtomicUsize>,
}

impl Prepared {
    /// On a memory log that holds the records of `topic`; reads give `batch` records, whatever is asked. They are
    /// given once, to the first consumer.
    ///
    /// # Errors
    /// The memory log's.
    pub async fn new(log: MemoryLog, topic: &TopicName, batch: usize) -> Result<Self, LogError> {
        let mut prepared = BTreeMap::new();
        for (partition, end) in (0..).zip(log.end_offsets(topic).await?) {
            let id = PartitionId { topic: topic.clone(), partition };
            let mut reader = log.cursor(&id, Start::Earliest).await?;
            let mut batches = Batches::new();
            while reader.position() < end {
                let batch = reader.read(batch).await?;
                batches.push_back((batch, reader.position()));
            }
            prepared.insert(id, batches);
        }
        Ok(Self { log, batches: Arc::new(Mutex::new(prepared)), live: Arc::default() })
    }

    /// Records in batches that were given out and are still held.
    #[must_use]
    pub fn live(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.live)
    }
}

impl CommitLog for Prepared {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        self.log.ensure_topic(spec)
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.log.describe_topic(topic)
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.log.add_partitions(topic, partitions)
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        Box::pin(async { Ok(Arc::new(Sink) as Arc<dyn Producer>) })
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        self.log.transactional_producer(id)
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        Box::pin(async move {
            let inner = self.log.consumer(group, topics).await?;
            let (batches, live) = (Arc::clone(&self.batches), Arc::clone(&self.live));
            Ok(Arc::new(Member { inner, batches, live }) as Arc<dyn Consumer>)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        self.log.cursor(partition, start)
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        self.log.end_offsets(topic)
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        self.log.settled_offsets(group, topic)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.close()
    }
}

#[derive(Debug)]
struct Sink;

impl Producer for Sink {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        let stored = batch.into_iter().map(|record| {
            Ok(Position { partition: PartitionId { topic: record.topic, partition: 0 }, offset: 0 })
        });
        receipt.complete(stored.collect());
    }
}

#[derive(Debug)]
struct Member {
    inner: Arc<dyn Consumer>,
    batches: Arc<Mutex<BTreeMap<PartitionId, Batches>>>,
    live: Arc<AtomicUsize>,
}

impl Consumer for Member {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        self.inner.signal()
    }

    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        self.inner.confirm(assignments)
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(async move {
            // The inner log checks the generation; its readers are not needed.
            self.inner.assign(starts.clone()).await?;
            let mut prepared = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
            let mut readers = Vec::with_capacity(starts.len());
            for (assignment, _) in starts {
                let batches = prepared.remove(&assignment.partition).unwrap_or_default();
                let live = Arc::clone(&self.live);
                readers.push(Box::new(Ready { next: 0, batches, live }) as Box<dyn PartitionReader>);
            }
            Ok(readers)
        })
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        self.inner.revoked(partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        self.inner.settle(settlements)
    }

    fn group_token(&self) -> GroupToken {
        self.inner.group_token()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.inner.close()
    }
}

#[derive(Debug)]
struct Ready {
    next: Offset,
    batches: Batches,
    live: Arc<AtomicUsize>,
}

impl PartitionReader for Ready {
    fn position(&self) -> Offset {
        self.next
    }

    fn read(&mut self, _: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        Box::pin(async {
            match self.batches.pop_front() {
                Some((batch, next)) => {
                    self.next = next;
                    self.live.fetch_add(batch.len(), Ordering::Relaxed);
                    Ok(Arc::new(Given { batch, live: Arc::clone(&self.live) }) as Arc<dyn RecordBatch>)
                }
                None => std::future::pending().await,
            }
        })
    }

    fn seek(&mut self, offset: Offset) {
        self.batches.retain(|(_, next)| *next > offset);
        self.next = offset;
    }
}

/// A batch that tells when it is let go.
struct Given {
    batch: Arc<dyn RecordBatch>,
    live: Arc<AtomicUsize>,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.live.fetch_sub(self.batch.len(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.batch, f)
    }
}

impl RecordBatch for Given {
    fn topic(&self) -> &TopicName {
        self.batch.topic()
    }

    fn partition(&self) -> i32 {
        self.batch.partition()
    }

    fn len(&self) -> usize {
        self.batch.len()
    }

    fn offset(&self, index: usize) -> Offset {
        self.batch.offset(index)
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        self.batch.timestamp(index)
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.batch.key(index)
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        self.batch.value(index)
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.batch.visit_headers(index, visit);
    }
}
