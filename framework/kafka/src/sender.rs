//! A producing client: records go in by topic handles, delivery reports come back by the number of their batch.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread,
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    log::{Outcomes, PartitionId, Position},
};
use bytes::Bytes;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseProducer, DeliveryResult, Producer, ProducerContext},
    types::RDKafkaErrorCode as Code,
};
use slab::Slab;

use crate::{
    context::log,
    error::{client, closed, error},
    native::{self, Native, Topic},
    shared::Shared,
};

const _: () = assert!(usize::BITS == 64, "a batch's number and a record's share an opaque pointer");

/// How often a client's thread looks whether it shall end. Rarely: `poll` spins through the last millisecond.
const LOOK: Duration = Duration::from_secs(1);

/// What must not be overtaken: a key within a topic.
pub(crate) type Ordered = (TopicName, Bytes);

pub(crate) fn ordered(record: &NewRecord) -> Option<Ordered> {
    record.key.as_ref().map(|key| (record.topic.clone(), key.clone()))
}

/// The partition and the offset of a record, or why it has none.
type Stored = Result<(i32, i64), LogError>;

/// Told what became of a batch, and which keys were held for it.
type Done = Box<dyn FnOnce(Outcomes, Vec<Ordered>) + Send>;

/// Records on their way.
struct Batch {
    records: Arc<Vec<NewRecord>>,
    outcomes: Vec<Option<Result<Position, LogError>>>,
    /// Outcomes that are missing, and one more while it is being filled.
    left: usize,
    holds: Vec<Ordered>,
    done: Option<Done>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Some(done) = self.done.take() else { return };
        let unknown =
            || LogError::new(LogErrorKind::UnknownOutcome, "the producer ended before the answer came");
        let outcomes = std::mem::take(&mut self.outcomes);
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(unknown())));
        done(outcomes.collect(), std::mem::take(&mut self.holds));
    }
}

/// Where delivery reports arrive.
#[derive(Default)]
pub(crate) struct Reports {
    batches: Mutex<Slab<Batch>>,
    /// The client, to be asked why it failed for good.
    client: OnceLock<Weak<BaseProducer<Self>>>,
}

impl Reports {
    /// Why the client takes nothing more, if so.
    fn fatal(&self) -> Option<(Code, String)> {
        self.client.get()?.upgrade()?.client().fatal_error()
    }

    fn batches(&self) -> MutexGuard<'_, Slab<Batch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an outcome, or that filling ended; with the last one the batch is done.
    fn note(&self, batch: usize, outcome: Option<(usize, Stored)>) {
        let mut batches = self.batches();
        let Some(found) = batches.get_mut(batch) else { return };
        if let Some((index, outcome)) = outcome {
            let outcome = outcome.map(|(partition, offset)| {
                let topic = found.records[index].topic.clone();
                Position { partition: PartitionId { topic, partition }, offset }
            });
            found.outcomes[index] = Some(outcome);
        }
        found.left -= 1;
        if found.left == 0 {
            let done = batches.remove(batch);
            drop(batches);
            // Tells it.
            drop(done);
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a producer met an error");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let outcome = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((failed, message)) => {
                let code = failed.rdkafka_error_code().unwrap_or(Code::Fail);
                let tried = format!("cannot store a record in {}/{}", message.topic(), message.partition());
                // What was not sent yet goes with a client that fails for good: why is what it failed of.
                let cause = if code == Code::PurgeQueue { self.fatal() } else { None };
                let (code, said) = cause.unwrap_or_else(|| (code, code.to_string()));
                Err(error(&tried, code, &said))
            }
        };
        self.note(opaque >> 32, Some((opaque & 0xffff_ffff, outcome)));
    }
}

/// A producing client, served by a thread of its own.
pub(crate) struct Sender {
    client: Arc<BaseProducer<Reports>>,
    topics: Mutex<HashMap<TopicName, Arc<Topic>>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, LogError> {
        let made = config.create_with_context(Reports::default());
        let made: BaseProducer<Reports> = made.map_err(|error| client("cannot make a producer", error))?;
        let made = Arc::new(made);
        let serving = Arc::downgrade(&made);
        made.context().client.get_or_init(|| Weak::clone(&serving));
        let serve = move || {
            while let Some(client) = serving.upgrade() {
                client.poll(LOOK);
            }
        };
        thread::Builder::new().name("kafka-producing".to_owned()).spawn(serve).map_err(|error| {
            LogError::with_source(LogErrorKind::Unreachable, "cannot start a producer's thread", error)
        })?;
        Ok(Self { client: made, topics: Mutex::default() })
    }

    pub(crate) fn client(&self) -> &BaseProducer<Reports> {
        &self.client
    }

    /// Why the client takes nothing more, if so.
    pub(crate) fn fatal(&self) -> Option<(Code, String)> {
        self.client.client().fatal_error()
    }

    /// Whether every record has had its outcome.
    pub(crate) fn is_idle(&self) -> bool {
        self.client.context().batches().is_empty()
    }

    fn topic(&self, shared: &Shared, topic: &TopicName) -> Result<Arc<Topic>, LogError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = topics.get(topic) {
            return Ok(Arc::clone(found));
        }
        let native: Arc<dyn Native> = Arc::<BaseProducer<Reports>>::clone(&self.client);
        let made = Topic::new(native, &shared.wire(topic.as_str()));
        let made =
            Arc::new(made.map_err(|code| error(&format!("cannot use {topic}"), code, &code.to_string()))?);
        topics.insert(topic.clone(), Arc::clone(&made));
        Ok(made)
    }

    /// Begins a batch: each of its records is to be given or refused, then it is to be finished.
    pub(crate) fn begin(self: &Arc<Self>, records: Vec<NewRecord>, done: Done) -> Filling {
        let records = Arc::new(records);
        let outcomes = vec![None; records.len()];
        let left = records.len() + 1;
        let batch =
            Batch { records: Arc::clone(&records), outcomes, left, holds: Vec::new(), done: Some(done) };
        let batch = self.client.context().batches().insert(batch);
        Filling { sender: Arc::clone(self), batch, records, topic: None }
    }
}

/// A batch that is being handed to the client.
pub(crate) struct Filling {
    sender: Arc<Sender>,
    batch: usize,
    pub(crate) records: Arc<Vec<NewRecord>>,
    /// The handle of the last record's topic: the next one's is the same, mostly.
    topic: Option<(TopicName, Arc<Topic>)>,
}

impl Filling {
    /// Gives a record to the client.
    pub(crate) fn give(&mut self, shared: &Shared, index: usize) -> Result<(), LogError> {
        let record = &self.records[index];
        let topic = match &self.topic {
            Some((name, topic)) if *name == record.topic => topic,
            _ => {
                let found = self.sender.topic(shared, &record.topic)?;
                &self.topic.insert((record.topic.clone(), found)).1
            }
        };
        let partition = record.partition.unwrap_or(rdkafka::producer::PARTITION_UA);
        native::produce(topic, record, partition, (self.batch << 32) | index).map_err(|code| {
            let said = self.sender.fatal().map_or_else(|| code.to_string(), |(_, said)| said);
            error(&format!("cannot store a record in {}", record.topic), code, &said)
        })
    }

    /// Notes why a record is not given; its key is held until the batch is done.
    pub(crate) fn refuse(&self, index: usize, error: LogError, hold: Option<Ordered>) {
        let reports = self.sender.client.context();
        if let Some(hold) = hold
            && let Some(batch) = reports.batches().get_mut(self.batch)
        {
            batch.holds.push(hold);
        }
        reports.note(self.batch, Some((index, Err(error))));
    }

    /// Ends the filling. The batch may be done by that, and whoever waits for it is told on this thread.
    pub(crate) fn finish(self) {
        self.sender.client.context().note(self.batch, None);
    }
}

/// Why a record cannot be stored whatever the cluster says; `limit` is the most bytes it may have.
pub(crate) fn fault(shared: &Shared, record: &NewRecord, limit: usize) -> Option<LogError> {
    let topic = &record.topic;
    let size = record.size();
    if size > limit {
        let key =
            record.key.as_deref().map_or_else(String::new, |key| format!(" of key {}", key.escape_ascii()));
        return Some(LogError::new(
            LogErrorKind::RecordTooLarge,
            format!("a record{key} for {topic} has {size} bytes, more than {limit} (max_record_bytes)"),
        ));
    }
    let count = shared.known(topic)?;
    let partition = record.partition.filter(|partition| !(0..count).contains(partition))?;
    Some(crate::error::configuration(format!(
        "topic {topic} has {count} partitions, there is no partition {partition}"
    )))
}

/// Whether producing it must wait until more is known of its topic.
pub(crate) fn must_learn(shared: &Shared, record: &NewRecord) -> bool {
    match shared.known(&record.topic) {
        None => true,
        // Partitions may have been added.
        Some(count) => record.partition.is_some_and(|partition| partition >= count),
    }
}

/// Fails a whole batch.
pub(crate) fn fail(records: usize, error: &LogError) -> Outcomes {
    vec![Err(error.clone()); records]
}

/// The outcomes where the log is closed.
pub(crate) fn fail_closed(records: usize) -> Outcomes {
    fail(records, &closed())
}
