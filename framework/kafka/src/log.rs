//! The log.

use std::{
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    BoxFuture, LogError, TopicName,
    log::{
        Capabilities, CommitLog, Consumer, Offset, PartitionId, PartitionReader, Producer, Settled, Start,
        TopicInfo, TopicSpec, TransactionalProducer,
    },
};

use crate::{
    consumer::{KafkaConsumer, leave},
    member::{Member, lock},
    options::KafkaOptions,
    producer::KafkaProducer,
    reader::KafkaReader,
    sender::Sender,
    shared::Shared,
    transactions::KafkaTransactions,
};

/// How long what producers have taken may still need when the log is closed.
const FLUSH: Duration = Duration::from_secs(5);

/// A commit log on a Kafka cluster.
#[derive(Debug, Clone)]
pub struct KafkaLog(Arc<Shared>);

impl KafkaLog {
    /// Connects, within seconds or not at all.
    ///
    /// # Errors
    /// `Unreachable`, with the cause, where no broker answers.
    pub async fn connect(options: KafkaOptions) -> Result<Arc<Self>, LogError> {
        let connecting = tokio::task::spawn_blocking(move || Shared::connect(options));
        let shared = connecting.await.unwrap_or_else(|_| Err(crate::error::closed()))?;
        Ok(Arc::new(Self(shared)))
    }
}

impl CommitLog for KafkaLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "kafka",
            durable: true,
            shared_groups: true,
            max_record_bytes: self.0.options.max_record_bytes,
        }
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        Box::pin(self.0.waiting(move |shared| shared.ensure(&spec)))
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        let topic = topic.clone();
        Box::pin(self.0.waiting(move |shared| shared.describe(&topic)))
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        let topic = topic.clone();
        Box::pin(self.0.waiting(move |shared| shared.add_partitions(&topic, partitions)))
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        Box::pin(self.0.waiting(|shared| {
            let producer: Arc<dyn Producer> = Arc::new(KafkaProducer::open(shared)?);
            Ok(producer)
        }))
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        let id = id.to_owned();
        Box::pin(self.0.waiting(move |shared| {
            let producer: Box<dyn TransactionalProducer> = Box::new(KafkaTransactions::open(shared, &id)?);
            Ok(producer)
        }))
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        let (group, topics) = (group.to_owned(), topics.to_vec());
        Box::pin(self.0.waiting(move |shared| {
            let (member, hears) = Member::join(shared, &group, &topics)?;
            let consumer: Arc<dyn Consumer> = Arc::new(KafkaConsumer::new(member, hears));
            Ok(consumer)
        }))
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        let partition = partition.clone();
        Box::pin(self.0.waiting(move |shared| {
            let reader = KafkaReader::open(shared, &partition, start, Arc::default())?;
            let reader: Box<dyn PartitionReader> = Box::new(reader);
            Ok(reader)
        }))
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        let topic = topic.clone();
        Box::pin(self.0.waiting(move |shared| {
            let count = shared.require(&topic)?.spec.partitions.unwrap_or(0);
            shared.ends(&topic, count)
        }))
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        let (group, topic) = (group.to_owned(), topic.clone());
        Box::pin(self.0.waiting(move |shared| {
            let wire = shared.checked("group", &group)?;
            let count = shared.require(&topic)?.spec.partitions.unwrap_or(0);
            let asked: Vec<_> = (0..count).map(|partition| (topic.clone(), partition)).collect();
            shared.settled_of((&group, &wire), &asked)
        }))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            self.0.closed.cancel();
            let members: Vec<_> =
                lock(&self.0.members).drain(..).filter_map(|member| member.upgrade()).collect();
            for member in &members {
                member.leaving.cancel();
            }
            for member in &members {
                leave(member).await?;
            }
            let senders: Vec<_> =
                lock(&self.0.senders).drain(..).filter_map(|sender| Weak::upgrade(&sender)).collect();
            let flushing = tokio::task::spawn_blocking(move || flush(&senders));
            // Ends only early, where its thread is gone: then nothing waits.
            let _ = flushing.await;
            Ok(())
        })
    }
}

/// Waits until all that was taken has its outcome.
fn flush(senders: &[Arc<Sender>]) {
    let until = Instant::now() + FLUSH;
    while senders.iter().any(|sender| !sender.is_idle()) {
        if Instant::now() > until {
            tracing::warn!(
                "records were not acknowledged before the log was closed; what becomes of them is not known"
            );
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
