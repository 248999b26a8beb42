//! The port, on the shared state.

use std::sync::Arc;

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, Record, RecordBatch, TopicName,
    log::{
        Capabilities, CommitLog, Consumer, Offset, PartitionId, PartitionReader, Producer, Settled, Start,
        TopicInfo, TopicSpec, TransactionalProducer,
    },
    name,
};
use uuid::Uuid;

use crate::{
    consumer::MemoryConsumer,
    faults::Faults,
    partition::Batch,
    process::Process,
    producer::{MemoryProducer, MemoryTransactions},
    reader::MemoryReader,
    state::Shared,
    topics::{MAX_RECORD_BYTES, Topics},
};

/// A commit log in memory. Clones are handles of the same log.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
    pub(crate) process: Arc<Process>,
}

impl MemoryLog {
    /// An empty log. Topics that do not say how many partitions they have get `partitions`; where that is not a
    /// number of partitions, making such a topic fails.
    #[must_use]
    pub fn new(partitions: i32) -> Self {
        // Another log than any before it: a database that outlives the process must not take these topics for
        // those that it has positions of.
        Self::with_topics(Topics::new(partitions, Uuid::now_v7()))
    }

    /// An empty log that is the same one for the same seed, topic ids included.
    #[must_use]
    pub fn seeded(partitions: i32, seed: u64) -> Self {
        Self::with_topics(Topics::new(partitions, Uuid::new_v8((u128::from(seed) << 64).to_be_bytes())))
    }

    fn with_topics(topics: Topics) -> Self {
        let shared = Shared::new(topics);
        let process = shared.process();
        Self { shared, process }
    }

    /// The same log, for a program of its own: faults can pause it, kill it, and put it out of its groups. Clones are
    /// handles of the same program.
    #[must_use]
    pub fn process(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), process: self.shared.process() }
    }

    /// Every topic there is.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicName> {
        self.shared.lock().topics.names()
    }

    /// From now on every record of a topic that is made is kept for [`MemoryLog::journal`].
    pub fn keep_journal(&self) {
        self.shared.lock().topics.keep_journal();
    }

    /// Every record that was ever stored in a topic, by partition and offset: those too that compaction or retention
    /// removed. None without [`MemoryLog::keep_journal`].
    ///
    /// # Errors
    /// `TopicMissing`.
    pub fn journal(&self, topic: &TopicName) -> Result<Vec<Record>, LogError> {
        let state = self.shared.lock();
        let mut records = Vec::new();
        for (id, partition) in
            state.topics.partition_ids(topic)?.into_iter().zip(state.topics.partitions(topic)?)
        {
            if let Some(batch) = Batch::new(id, partition.journal().to_vec()) {
                records.extend(Record::all(&(Arc::new(batch) as Arc<dyn RecordBatch>)));
            }
        }
        Ok(records)
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
        Box::pin(async move {
            self.process.turn().await?;
            self.shared.open()?.topics.ensure(spec)
        })
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        Box::pin(async move {
            self.process.turn().await?;
            let state = self.shared.open()?;
            Ok(state.topics.describe(topic).filter(|_| !state.plan.forgets(topic.as_str())))
        })
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            self.process.turn().await?;
            let mut state = self.shared.open()?;
            state.topics.grow(topic, partitions)?;
            let (groups, topics) = state.groups_mut();
            groups.values_mut().try_for_each(|group| group.grown(topic, topics))
        })
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        Box::pin(async move {
            self.process.turn().await?;
            drop(self.shared.open()?);
            Ok(Arc::new(MemoryProducer::open(&self.shared, &self.process)?) as Arc<dyn Producer>)
        })
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            name::check("transactional id", id)?;
            self.process.turn().await?;
            let mut state = self.shared.open()?;
            let epoch = state.epochs.entry(id.to_owned()).or_default();
            *epoch += 1;
            let producer = MemoryTransactions::new(&self.shared, &self.process, id, *epoch);
            Ok(Box::new(producer) as Box<dyn TransactionalProducer>)
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
            self.process.turn().await?;
            let consumer = MemoryConsumer::join(&self.shared, &self.process, group, topics)?;
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        Box::pin(async move {
            self.process.turn().await?;
            let state = self.shared.open()?;
            let reader =
                MemoryReader::open(&self.shared, &self.process, None, &state.topics, partition, start)?;
            Ok(Box::new(reader) as Box<dyn PartitionReader>)
        })
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        Box::pin(async move {
            self.process.turn().await?;
            let state = self.shared.open()?;
            Ok(state.topics.partitions(topic)?.iter().map(|partition| partition.end()).collect())
        })
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        Box::pin(async move {
            name::check("group", group)?;
            self.process.turn().await?;
            let state = self.shared.open()?;
            let partitions = state.topics.partition_ids(topic)?;
            let group = state.groups.get(group);
            Ok(partitions.iter().map(|partition| group?.settled(partition).cloned()).collect())
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
