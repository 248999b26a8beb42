//! A log that tells what its members do: which partitions they get, what they settle and set aside, and under which
//! generation. It can refuse and die on command.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aqueduct::{
    LogError, LogErrorKind, TopicName,
    core::{
        BoxFuture, NewRecord, RecordBatch,
        log::{
            Assignment, Capabilities, CommitLog, Consumer, GroupToken, Offset, PartitionId, PartitionReader,
            Position, Producer, Settled, Settlement, Signal, Start, TopicInfo, TopicSpec,
            TransactionalProducer,
        },
    },
};
use checker::{Observation, Outcome, Place, WriteKind, now};

use crate::sink::Sink;

/// What the members of one process share.
#[derive(Debug)]
pub(crate) struct Watch {
    sink: Sink,
    generations: Mutex<HashMap<(String, PartitionId), i64>>,
    runs: AtomicU64,
    /// Transactions that write to topics with this ending are refused.
    refused: Mutex<Option<&'static str>>,
    /// Whether consumers are dead: they give no signal but an error.
    dead: AtomicBool,
    /// Whether readers give nothing, without an error.
    silent: AtomicBool,
}

impl Watch {
    pub(crate) fn new(sink: Sink) -> Arc<Self> {
        Arc::new(Self {
            sink,
            generations: Mutex::default(),
            runs: AtomicU64::new(0),
            refused: Mutex::default(),
            dead: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        })
    }

    pub(crate) fn see(&self, saw: Observation) {
        self.sink.see(saw);
    }

    /// A number for a run.
    pub(crate) fn run(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }

    /// The newest generation under which this process has a partition.
    pub(crate) fn generation(&self, group: &str, partition: &PartitionId) -> i64 {
        lock(&self.generations).get(&(group.to_owned(), partition.clone())).copied().unwrap_or(-1)
    }

    /// Refuses transactions that write to topics with this ending, or none any more.
    pub(crate) fn refuse(&self, ending: Option<&'static str>) {
        *lock(&self.refused) = ending;
    }

    /// Lets consumers die.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Lets readers fall silent.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn shard(partition: &PartitionId) -> checker::PartitionId {
    checker::PartitionId::new(partition.topic.as_str(), partition.partition)
}

pub(crate) fn place(position: &Position) -> Place {
    Place::new(position.partition.topic.as_str(), position.partition.partition, position.offset)
}

/// What an error says of whether the call took place.
pub(crate) fn outcome_of(error: &LogError) -> Outcome {
    match error.kind() {
        LogErrorKind::Configuration
        | LogErrorKind::TopicMissing
        | LogErrorKind::RecordTooLarge
        | LogErrorKind::Held
        | LogErrorKind::Fenced
        | LogErrorKind::StaleGeneration
        | LogErrorKind::OffsetOutOfRange { .. } => Outcome::Fail,
        // A full database takes nothing; after any other failure nobody knows.
        LogErrorKind::Storage if error.to_string().contains("max_bytes") => Outcome::Fail,
        _ => Outcome::Unknown,
    }
}

/// The log with its watch.
#[derive(Debug)]
pub(crate) struct Spy {
    inner: Arc<dyn CommitLog>,
    watch: Arc<Watch>,
}

impl Spy {
    pub(crate) fn on(inner: Arc<dyn CommitLog>, watch: &Arc<Watch>) -> Arc<dyn CommitLog> {
        Arc::new(Self { inner, watch: Arc::clone(watch) })
    }
}

impl CommitLog for Spy {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        self.inner.ensure_topic(spec)
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.inner.describe_topic(topic)
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.inner.add_partitions(topic, partitions)
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        self.inner.producer()
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            let inner = self.inner.transactional_producer(id).await?;
            let watch = Arc::clone(&self.watch);
            Ok(Box::new(Transactions { inner, watch }) as Box<dyn TransactionalProducer>)
        })
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        Box::pin(async move {
            if self.watch.dead.load(Ordering::Acquire) {
                return Err(dead());
            }
            let inner = self.inner.consumer(group, topics).await?;
            let (group, watch) = (group.to_owned(), Arc::clone(&self.watch));
            Ok(Arc::new(Member { inner, group, watch }) as Arc<dyn Consumer>)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        self.inner.cursor(partition, start)
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        self.inner.end_offsets(topic)
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        self.inner.settled_offsets(group, topic)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.inner.close()
    }
}

fn dead() -> LogError {
    LogError::new(LogErrorKind::Unreachable, "the client is dead, by command")
}

struct Transactions {
    inner: Box<dyn TransactionalProducer>,
    watch: Arc<Watch>,
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl TransactionalProducer for Transactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let refused = *lock(&self.watch.refused);
            if let Some(record) =
                records.iter().find(|record| refused.is_some_and(|end| record.topic.as_str().ends_with(end)))
            {
                let message = format!("{} is out of reach, by command", record.topic);
                return Err(LogError::new(LogErrorKind::Unreachable, message));
            }
            let settled = settlements.as_ref().map(|(_, settled)| settled.clone()).unwrap_or_default();
            let copies: Vec<_> = records.iter().filter_map(|record| copy(record, &settled)).collect();
            let began = now();
            let result = self.inner.commit(records, settlements).await;
            let outcome = result.as_ref().map_or_else(outcome_of, |_| Outcome::Ok);
            let positions = result.as_deref().unwrap_or_default();
            for (index, (kind, group, settlement)) in copies.into_iter().enumerate() {
                let order = positions.get(index).map(|at| (at.partition.to_string(), at.offset));
                let (shard, generation) = (shard(&settlement.partition), settlement.generation);
                let saw = Observation::Write { kind, group, shard, generation, began, outcome, order };
                self.watch.see(saw);
            }
            result
        })
    }
}

/// What a record is a copy for, where its transaction settles the source partition.
fn copy(record: &NewRecord, settled: &[Settlement]) -> Option<(WriteKind, String, Settlement)> {
    let name = record.topic.as_str();
    settled.iter().find_map(|settlement| {
        let source = settlement.partition.topic.as_str();
        let (kind, rest) = match (name.strip_suffix(".dead"), name.strip_suffix(".parked")) {
            (Some(rest), _) => (WriteKind::Letter, rest),
            (_, Some(rest)) if record.value.is_none() => (WriteKind::EndMark, rest),
            (_, Some(rest)) => (WriteKind::Parked, rest),
            _ => return None,
        };
        let group = rest.strip_suffix(source)?.strip_suffix('.')?;
        let same = record.partition == Some(settlement.partition.partition);
        same.then(|| (kind, group.to_owned(), settlement.clone()))
    })
}

#[derive(Debug)]
struct Member {
    inner: Arc<dyn Consumer>,
    group: String,
    watch: Arc<Watch>,
}

impl Member {
    fn asked(&self, partitions: &[PartitionId]) {
        for partition in partitions {
            let (group, shard) = (self.group.clone(), shard(partition));
            self.watch.see(Observation::Revoking { group, shard });
        }
    }

    fn gone(&self, partitions: &[PartitionId]) {
        for partition in partitions {
            let (group, shard) = (self.group.clone(), shard(partition));
            self.watch.see(Observation::Revoked { group, shard });
        }
    }
}

impl Consumer for Member {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async move {
            if self.watch.dead.load(Ordering::Acquire) {
                return Err(dead());
            }
            let signal = self.inner.signal().await?;
            match &signal {
                Signal::Lost(partitions) => self.gone(partitions),
                Signal::Revoking(partitions) => self.asked(partitions),
                _ => {}
            }
            Ok(signal)
        })
    }

    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        self.inner.confirm(assignments)
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(async move {
            let taken = starts.clone();
            let readers = self.inner.assign(starts).await?;
            for (assignment, start) in &taken {
                let settled = match start {
                    Start::Offset(offset) => Some(*offset),
                    _ => None,
                };
                let (group, generation) = (self.group.clone(), assignment.generation);
                let shard = shard(&assignment.partition);
                self.watch.see(Observation::Assigned { group, shard, generation, settled });
                let of = (self.group.clone(), assignment.partition.clone());
                // An answer for an older one may be the later.
                let mut generations = lock(&self.watch.generations);
                let newest = generations.entry(of).or_insert(generation);
                *newest = generation.max(*newest);
            }
            let watched = readers.into_iter().map(|inner| {
                let watch = Arc::clone(&self.watch);
                Box::new(Reader { inner, watch }) as Box<dyn PartitionReader>
            });
            Ok(watched.collect())
        })
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        self.gone(partitions);
        self.inner.revoked(partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            let began = now();
            let of: Vec<_> =
                settlements.iter().map(|each| (shard(&each.partition), each.generation)).collect();
            let results = self.inner.settle(settlements).await;
            for ((shard, generation), result) in of.into_iter().zip(&results) {
                let outcome = result.as_ref().map_or_else(outcome_of, |()| Outcome::Ok);
                let (kind, group, order) = (WriteKind::Commit, self.group.clone(), None);
                self.watch.see(Observation::Write { kind, group, shard, generation, began, outcome, order });
            }
            results
        })
    }

    fn group_token(&self) -> GroupToken {
        self.inner.group_token()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.inner.close()
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn PartitionReader>,
    watch: Arc<Watch>,
}

impl PartitionReader for Reader {
    fn position(&self) -> Offset {
        self.inner.position()
    }

    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        if self.watch.silent.load(Ordering::Acquire) {
            return Box::pin(std::future::pending());
        }
        self.inner.read(max)
    }

    fn seek(&mut self, offset: Offset) {
        self.inner.seek(offset);
    }
}
