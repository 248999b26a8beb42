//! Publishing by rdkafka's `ThreadedProducer`: what a careful user of that crate writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use aqueduct::{
    Environment,
    core::{Headers, NewRecord},
};
use bench::events::Sold;
use rdkafka::{
    ClientConfig, ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::{sync::oneshot, task::JoinSet};

use super::{Encoded, FIXED, IN_FLIGHT};

/// How long the queue may take to empty.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts what was stored.
#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Tells who waits.
#[derive(Debug)]
struct Told;

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = Box<oneshot::Sender<bool>>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<oneshot::Sender<bool>>) {
        // The waiter is there, or the run failed already.
        let _ = told.send(result.is_ok());
    }
}

/// The headers, as rdkafka has them.
fn headers(encoded: &Encoded) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(4);
    for (key, value) in FIXED {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    headers.insert(Header { key: "ce_id", value: Some(&encoded.id[..]) })
}

/// A producer that counts what was stored.
pub(crate) struct Counting(ThreadedProducer<Counted>);

impl Counting {
    pub(crate) fn new(config: &ClientConfig) -> anyhow::Result<Self> {
        Ok(Self(config.create_with_context(Counted::default())?))
    }

    /// Sends a record of the outbox.
    pub(crate) fn send(
        &self,
        topic: &str,
        key: &[u8],
        value: &[u8],
        timestamp: i64,
        block: &Headers,
    ) -> anyhow::Result<()> {
        let record = BaseRecord::to(topic).key(key).payload(value).timestamp(timestamp).headers(owned(block));
        self.0.send(record).map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Waits until so many were stored in all.
    pub(crate) fn all(&self, count: u64) -> anyhow::Result<()> {
        self.0.flush(PATIENCE)?;
        let stored = self.0.context().0.load(Ordering::Relaxed);
        ensure!(stored == count, "{stored} of {count} events were stored");
        Ok(())
    }
}

/// A block of headers, as rdkafka has them.
fn owned(block: &Headers) -> OwnedHeaders {
    block.iter().fold(OwnedHeaders::new_with_capacity(4), |headers, header| {
        // Those of a bench are ASCII.
        let key = std::str::from_utf8(header.name).unwrap_or_default();
        headers.insert(Header { key, value: header.value })
    })
}

/// Publishes `count` events, and waits until all are stored.
pub(crate) fn publish(
    config: &ClientConfig,
    topic: &str,
    pool: &[Sold],
    count: u64,
    environment: &Environment,
) -> anyhow::Result<()> {
    let producer = Counting::new(config)?;
    let mut encoded = Encoded::new();
    for (number, event) in pool.iter().cycle().take(usize::try_from(count)?).enumerate() {
        if number.is_multiple_of(256) {
            while producer.0.in_flight_count() > IN_FLIGHT {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        encoded.set(event, environment)?;
        let mut record = BaseRecord::to(topic)
            .key(event.account.as_str())
            .payload(encoded.value.as_slice())
            .timestamp(encoded.timestamp)
            .headers(headers(&encoded));
        while let Err((error, back)) = producer.0.send(record) {
            ensure!(
                matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)),
                "cannot produce: {error}"
            );
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
    }
    producer.all(count)
}

/// A producer of transactions.
pub(crate) struct Transactions(BaseProducer<Counted>);

impl Transactions {
    pub(crate) fn new(config: &ClientConfig, id: &str) -> anyhow::Result<Self> {
        let mut config = config.clone();
        config.set("transactional.id", id).set("message.timeout.ms", "10000").set("linger.ms", "0");
        let producer: BaseProducer<Counted> = config.create_with_context(Counted::default())?;
        producer.init_transactions(PATIENCE)?;
        Ok(Self(producer))
    }

    /// Commits records as one.
    pub(crate) fn commit(&self, topic: &str, records: &[NewRecord]) -> anyhow::Result<()> {
        let before = self.0.context().0.load(Ordering::Relaxed);
        self.0.begin_transaction()?;
        for each in records {
            let mut record = BaseRecord::to(topic)
                .timestamp(each.timestamp.as_micros() / 1_000)
                .headers(owned(&each.headers))
                .payload(each.value.as_deref().unwrap_or_default());
            record.key = each.key.as_deref();
            self.0.send(record).map_err(|(error, _)| error)?;
        }
        self.0.flush(PATIENCE)?;
        let stored = self.0.context().0.load(Ordering::Relaxed) - before;
        ensure!(stored == records.len() as u64, "{stored} of {} records were stored", records.len());
        self.0.commit_transaction(PATIENCE)?;
        Ok(())
    }
}

/// A producer whose callers wait for each record.
#[derive(Clone)]
pub(crate) struct Awaited(Arc<ThreadedProducer<Told>>);

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaited").finish_non_exhaustive()
    }
}

impl Awaited {
    pub(crate) fn new(config: &ClientConfig) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(config.create_with_context(Told)?)))
    }

    /// Publishes one event and waits until it is stored.
    pub(crate) async fn one(
        &self,
        topic: &str,
        event: &Sold,
        encoded: &mut Encoded,
        environment: &Environment,
    ) -> anyhow::Result<()> {
        encoded.set(event, environment)?;
        let (told, stored) = oneshot::channel();
        let record = BaseRecord::with_opaque_to(topic, Box::new(told))
            .key(event.account.as_str())
            .payload(encoded.value.as_slice())
            .timestamp(encoded.timestamp)
            .headers(headers(encoded));
        self.0.send(record).map_err(|(error, _)| error)?;
        ensure!(stored.await.context("no report came")?, "an event was not stored");
        Ok(())
    }

    /// Publishes `count` events by so many callers.
    pub(crate) async fn many(
        &self,
        topic: &str,
        pool: &Arc<[Sold]>,
        count: usize,
        callers: usize,
        environment: &Environment,
    ) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (own, topic, pool) = (self.clone(), topic.to_owned(), Arc::clone(pool));
            let (next, environment) = (Arc::clone(&next), environment.clone());
            tasks.spawn(async move {
                let mut encoded = Encoded::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return anyhow::Ok(());
                    }
                    own.one(&topic, &pool[at % pool.len()], &mut encoded, &environment).await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
