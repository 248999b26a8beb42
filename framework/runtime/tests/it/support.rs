use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    Environment, Event, Headers, NewRecord, Record, Timestamp, TopicName,
    environment::{Clock, Random, SystemClock},
    log::{CommitLog, Offset, PartitionId, Settled, Settlement, Signal, Start},
};
use aqueduct_derive::Event;
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, Drained, Subscriber, SubscriberError, Subscription, SubscriptionStatus};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One step of a key; `number` counts up per key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "test.Stepped", topic = "steps", key = key, crate = aqueduct_core)]
pub(crate) struct Stepped {
    pub(crate) key: String,
    pub(crate) number: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "test.Echoed", topic = "echoes", key = key, crate = aqueduct_core)]
pub(crate) struct Echoed {
    pub(crate) key: String,
    pub(crate) number: u32,
}

pub(crate) fn step(key: &str, number: u32) -> Stepped {
    Stepped { key: key.to_owned(), number }
}

/// A counter is random enough here, and a run repeats.
#[derive(Default)]
struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = number.to_le_bytes()[index % 8];
        }
    }
}

struct Virtual(tokio::time::Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000_000).saturating_add(self.0.elapsed())
    }
}

pub(crate) struct Bench {
    pub(crate) log: MemoryLog,
    pub(crate) bus: Bus,
}

impl Bench {
    pub(crate) async fn new(partitions: i32) -> Self {
        let log = MemoryLog::new(partitions);
        let environment = Environment::new(SystemClock, Counting::default());
        let bus = Bus::open(Arc::new(log.clone()), environment).await.unwrap();
        Self { log, bus }
    }

    /// A bench whose clock is tokio's, which is paused.
    pub(crate) async fn virtual_clock(partitions: i32) -> Self {
        let log = MemoryLog::new(partitions);
        let clock = Virtual(tokio::time::Instant::now());
        let environment = Environment::new(clock, Counting::default());
        let bus = Bus::open(Arc::new(log.clone()), environment).await.unwrap();
        Self { log, bus }
    }

    pub(crate) fn run<S: Clone + Send + Sync + 'static>(
        &self,
        subscription: Subscription<S>,
        state: S,
    ) -> Running {
        let subscriber = Subscriber::new(subscription, state, self.bus.clone(), None).unwrap();
        let status = Box::new(subscriber.status());
        let stop = CancellationToken::new();
        let task = tokio::spawn(subscriber.run(stop.clone(), Duration::from_secs(5)));
        Running { stop, task, status }
    }

    /// All records of a topic, by partition.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        let topic = TopicName::new(topic).unwrap();
        let mut records = Vec::new();
        for (partition, end) in (0..).zip(self.log.end_offsets(&topic).await.unwrap()) {
            let id = PartitionId { topic: topic.clone(), partition };
            let mut reader = self.log.cursor(&id, Start::Earliest).await.unwrap();
            while reader.position() < end {
                records.extend(Record::all(&reader.read(1_000).await.unwrap()));
            }
        }
        records
    }

    /// The settled offsets of group `steps`, summed over its topic.
    pub(crate) async fn settled(&self) -> Offset {
        let topic = TopicName::new(Stepped::INFO.topic).unwrap();
        self.log
            .settled_offsets("steps", &topic)
            .await
            .unwrap()
            .into_iter()
            .flatten()
            .map(|settled| settled.offset)
            .sum()
    }

    /// Waits until group `steps` has begun: it is stored where.
    pub(crate) async fn begun(&self) {
        let topic = TopicName::new(Stepped::INFO.topic).unwrap();
        let kept = |settled: Vec<Option<Settled>>| settled.iter().all(Option::is_some);
        // Not even the topic is there at first.
        while !self.log.settled_offsets("steps", &topic).await.is_ok_and(kept) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Settles partition 0 of the steps as another program would.
    pub(crate) async fn settle_as(&self, group: &str, offset: Offset, metadata: &str) {
        let topic = TopicName::new(Stepped::INFO.topic).unwrap();
        let consumer = self.log.consumer(group, &[topic]).await.unwrap();
        let Signal::Assigned(given) = consumer.signal().await.unwrap() else { panic!("nothing is given") };
        let (partition, generation) = (given[0].partition.clone(), given[0].generation);
        let settlement = Settlement { partition, generation, offset, metadata: metadata.to_owned() };
        consumer.settle(vec![settlement]).await.remove(0).unwrap();
        consumer.close().await.unwrap();
    }

    /// Appends a record as another program would.
    pub(crate) async fn append(&self, record: NewRecord) {
        let (done, told) = tokio::sync::oneshot::channel();
        self.log
            .producer()
            .await
            .unwrap()
            .enqueue(vec![record], Box::new(move |outcomes| done.send(outcomes).unwrap()));
        told.await.unwrap().pop().unwrap().unwrap();
    }
}

pub(crate) fn plain(key: Option<&'static str>, value: Option<&'static str>, headers: Headers) -> NewRecord {
    NewRecord {
        topic: TopicName::new("steps").unwrap(),
        partition: None,
        key: key.map(Into::into),
        headers,
        value: value.map(Into::into),
        timestamp: aqueduct_core::Timestamp::from_millis(1),
    }
}

pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<Drained, SubscriberError>>,
    status: Box<dyn Fn() -> SubscriptionStatus + Send>,
}

impl Running {
    pub(crate) fn status(&self) -> SubscriptionStatus {
        (self.status)()
    }

    pub(crate) async fn end(self) -> Drained {
        self.stop.cancel();
        self.task.await.unwrap().unwrap()
    }

    /// Waits until so many deliveries have ended.
    pub(crate) async fn ended(&self, count: u64) {
        until(|| self.status().ended >= count).await;
    }
}

/// Waits for a condition, up to a minute of (paused) time.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition did not come true");
}

/// What handlers saw, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<(String, u32)>>>);

impl Seen {
    pub(crate) fn note(&self, event: &Stepped) {
        self.0.lock().unwrap().push((event.key.clone(), event.number));
    }

    pub(crate) fn all(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn of(&self, key: &str) -> Vec<u32> {
        self.all().into_iter().filter(|(seen, _)| seen == key).map(|(_, number)| number).collect()
    }
}
