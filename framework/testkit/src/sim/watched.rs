//! A process's commit log, watched: nothing is changed, what matters to an observer is told.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, NewRecord, TopicName,
    log::{
        Assignment, Capabilities, CommitLog, Consumer, GroupToken, Offset, PartitionId, PartitionReader,
        Position, Producer, Settled, Settlement, Signal, Start, TopicInfo, TopicSpec, TransactionalProducer,
    },
};

use super::{
    observer::{Answer, Seen, Written},
    process::Process,
};

#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) process: Arc<Process>,
    pub(crate) group: Arc<str>,
}

impl Watched {
    fn wrote(&self, what: Written, settlement: &Settlement, began: Duration, error: Option<&LogError>) {
        let answer = match error.map(LogError::kind) {
            None => Answer::Done,
            Some(LogErrorKind::UnknownOutcome) => Answer::Unknown,
            Some(_) => Answer::Refused,
        };
        let Settlement { partition, generation, .. } = settlement;
        let (group, generation) = (&*self.group, *generation);
        self.process.saw(Seen::Wrote { what, group, partition, generation, began, answer });
    }
}

impl CommitLog for Watched {
    fn capabilities(&self) -> Capabilities {
        self.process.log.capabilities()
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        self.process.log.ensure_topic(spec)
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.process.log.describe_topic(topic)
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.process.log.add_partitions(topic, partitions)
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        self.process.log.producer()
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            let producer = self.process.log.transactional_producer(id).await?;
            Ok(Box::new(WatchedTransactions { watched: self.clone(), producer })
                as Box<dyn TransactionalProducer>)
        })
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        Box::pin(async move {
            let consumer = self.process.log.consumer(group, topics).await?;
            let watched = Self { process: Arc::clone(&self.process), group: group.into() };
            Ok(Arc::new(WatchedConsumer { watched, consumer }) as Arc<dyn Consumer>)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        self.process.log.cursor(partition, start)
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        self.process.log.end_offsets(topic)
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        self.process.log.settled_offsets(group, topic)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.process.log.close()
    }
}

struct WatchedConsumer {
    watched: Watched,
    consumer: Arc<dyn Consumer>,
}

impl fmt::Debug for WatchedConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.consumer, f)
    }
}

impl Consumer for WatchedConsumer {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async move {
            let signal = self.consumer.signal().await?;
            if let Signal::Assigned(assignments) = &signal {
                for Assignment { partition, generation, .. } in assignments {
                    self.watched.process.give(partition, *generation);
                }
            }
            Ok(signal)
        })
    }

    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        self.consumer.confirm(assignments)
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(async move {
            let taken = starts.clone();
            let readers = self.consumer.assign(starts).await?;
            for (Assignment { partition, generation, .. }, start) in &taken {
                self.watched.process.read(partition, *generation);
                let settled = match start {
                    Start::Offset(offset) => Some(*offset),
                    Start::Earliest | Start::Latest | Start::Time(_) => None,
                };
                let (group, generation) = (&*self.watched.group, *generation);
                self.watched.process.saw(Seen::Assigned { group, partition, generation, settled });
            }
            Ok(readers)
        })
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        self.consumer.revoked(partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            let began = self.watched.process.clock.elapsed();
            let results = self.consumer.settle(settlements.clone()).await;
            for (settlement, result) in settlements.iter().zip(&results) {
                self.watched.wrote(Written::Settled, settlement, began, result.as_ref().err());
            }
            results
        })
    }

    fn group_token(&self) -> GroupToken {
        self.consumer.group_token()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.consumer.close()
    }
}

struct WatchedTransactions {
    watched: Watched,
    producer: Box<dyn TransactionalProducer>,
}

impl fmt::Debug for WatchedTransactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.producer, f)
    }
}

impl TransactionalProducer for WatchedTransactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let began = self.watched.process.clock.elapsed();
            let kinds: Vec<_> = records.iter().filter_map(kind_of).collect();
            let settled = settlements.as_ref().map(|(_, settled)| settled.clone()).unwrap_or_default();
            let outcome = self.producer.commit(records, settlements).await;
            for settlement in &settled {
                self.watched.wrote(Written::Settled, settlement, began, outcome.as_ref().err());
                for what in &kinds {
                    self.watched.wrote(*what, settlement, began, outcome.as_ref().err());
                }
            }
            outcome
        })
    }
}

fn kind_of(record: &NewRecord) -> Option<Written> {
    let topic = record.topic.as_str();
    if topic.ends_with(".dead") {
        return Some(Written::Letter);
    }
    topic.ends_with(".parked").then_some(match record.value {
        None => Written::EndMark,
        Some(_) => Written::Parked,
    })
}
