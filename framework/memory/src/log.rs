//! The port, on the shared state.

use std::sync::Arc;

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, TopicName,
    log::{
        Capabilities, CommitLog, Consumer, Offset, PartitionId, PartitionReader, Producer, Start, TopicInfo,
        TopicSpec, TransactionalProducer,
    },
    name,
};

use crate::{
    consumer::MemoryConsumer,
    faults::Faults,
    producer::{MemoryProducer, MemoryTransactions},
    reader::MemoryReader,
    state::Shared,
    topics::MAX_RECORD_BYTES,
};

/// A commit log in memory. Clones are handles of the same log.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

impl MemoryLog {
    /// An empty log. Topics that do not say how many partitions they have get `partitions`; where that is not a
    /// number of partitions, making such a topic fails.
    #[must_use]
    pub fn new(partitions: i32) -> Self {
        Self { shared: Shared::new(partitions) }
    }

    /// Failures on command.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared))
    }
}

impl CommitLog for MemoryLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "memory",
            durable: false,
            shared_groups: false,
            max_record_bytes: MAX_RECORD_BYTES,
        }
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        Box::pin(async move { self.shared.open()?.topics.ensure(spec) })
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        Box::pin(async move { Ok(self.shared.open()?.topics.describe(topic)) })
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        Box::pin(async move {
            drop(self.shared.open()?);
            Ok(Arc::new(MemoryProducer::open(&self.shared)?) as Arc<dyn Producer>)
        })
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            name::check("transactional id", id)?;
            let mut state = self.shared.open()?;
            let epoch = state.epochs.entry(id.to_owned()).or_default();
            *epoch += 1;
            Ok(Box::new(MemoryTransactions::new(&self.shared, id, *epoch)) as Box<dyn TransactionalProducer>)
        })
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        Box::pin(async move {
            name::check("group", group)?;
            if topics.is_empty() {
                return Err(LogError::new(
                    LogErrorKind::Configuration,
                    format!("group {group} reads no topic"),
                ));
            }
            Ok(Arc::new(MemoryConsumer::join(&self.shared, group, topics)?) as Arc<dyn Consumer>)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        Box::pin(async move {
            let reader = MemoryReader::open(&self.shared, &self.shared.open()?.topics, partition, start)?;
            Ok(Box::new(reader) as Box<dyn PartitionReader>)
        })
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        Box::pin(async move {
            let state = self.shared.open()?;
            Ok(state.topics.partitions(topic)?.iter().map(|partition| partition.end()).collect())
        })
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Offset>>, LogError>> {
        Box::pin(async move {
            name::check("group", group)?;
            let state = self.shared.open()?;
            let partitions = state.topics.partition_ids(topic)?;
            let group = state.groups.get(group);
            Ok(partitions.iter().map(|partition| group?.settled(partition)).collect())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let mut state = self.shared.open()?;
            state.closed = true;
            state.topics.wake_all();
            for group in state.groups.values() {
                group.wake_all();
            }
            Ok(())
        })
    }
}
