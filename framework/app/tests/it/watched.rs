//! A log in memory that tests see from inside.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, TopicName,
    log::{
        Capabilities, CommitLog, Consumer, Offset, PartitionId, PartitionReader, Producer, Settled, Start,
        TopicInfo, TopicSpec, TransactionalProducer,
    },
};
use aqueduct_memory::MemoryLog;

/// What is done, once, while the settled offsets of group `pings` are read.
#[derive(Clone, Default)]
pub(crate) struct Between(pub(crate) Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Between {
    pub(crate) fn then(&self, act: BoxFuture<'static, ()>) {
        *self.0.lock().unwrap() = Some(act);
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

/// A log in memory that lets something happen while it is asked, or does not answer.
#[derive(Debug)]
pub(crate) struct Watched {
    log: MemoryLog,
    pub(crate) between: Between,
    /// So many of the next questions for a topic are not answered.
    pub(crate) silent: Arc<AtomicU32>,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self { log: MemoryLog::new(1), between: Between::default(), silent: Arc::default() }
    }
}

impl CommitLog for Watched {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        let silent =
            self.silent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if silent.is_ok() {
            let error = LogError::new(LogErrorKind::Unreachable, "no answer");
            return Box::pin(async { Err(error) });
        }
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
        self.log.producer()
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
        self.log.consumer(group, topics)
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
        Box::pin(async move {
            let act = (group == "pings").then(|| self.between.0.lock().unwrap().take()).flatten();
            if let Some(act) = act {
                act.await;
            }
            self.log.settled_offsets(group, topic).await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.close()
    }
}
