//! What one partition writes about its deliveries: copies of parked records, end marks, ends of releases, dead letters, and
//! what handlers returned where that is to be exactly once.
//! One batch is on its way while the next gathers. Each is one transaction that also settles under the current
//! generation, so that an evicted member writes none.
//!
//! A kill before the transaction leaves the deliveries open: they come again. A kill after it leaves them ended in the
//! log and unknown to this process: a parked record is found at the next assignment, and a dead letter may be written a
//! second time, with the same origin.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use aqueduct_core::{
    BoxFuture, Environment, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, Consumer, Offset, PartitionId, Settlement, TransactionalProducer},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    dead_letter,
    lanes::{KeyBytes, LaneId},
    noted::Noted,
    parking::{self, control, frame},
    policy::Retry,
    progress::Progress,
    status::Board,
};

/// The most that goes into one transaction.
const MAX_RECORDS: usize = 500;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Something to write.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A record set aside for good.
    Letter { lane: LaneId, record: Record, reason: String, attempts: u32 },
    /// A record that waits with its key; without a sequence it is one that was parked before.
    Park {
        sequence: Option<u64>,
        key: KeyBytes,
        record: Record,
        reason: String,
        attempts: u32,
        due: Option<Timestamp>,
    },
    /// A parked record has ended; what its handler returned, where that goes with it.
    End { key: KeyBytes, offset: Offset, records: Vec<NewRecord> },
    /// A release is over.
    Done { release: Uuid, failure: Option<String> },
    /// All below has ended, and this is what handlers returned for it.
    Settle { settled: Offset, records: Vec<NewRecord> },
}

impl Op {
    fn size(&self) -> usize {
        match self {
            Self::Letter { record, .. } | Self::Park { record, .. } => record.size() + 256,
            Self::End { records, .. } | Self::Settle { records, .. } => {
                256 + records.iter().map(NewRecord::size).sum::<usize>()
            }
            Self::Done { .. } => 256,
        }
    }

    /// What a handler returned: written once, where all else may be written again.
    fn returned(&self) -> &[NewRecord] {
        match self {
            Self::End { records, .. } | Self::Settle { records, .. } => records,
            Self::Letter { .. } | Self::Park { .. } | Self::Done { .. } => &[],
        }
    }

    /// How many deliveries come again that had begun, where it is not stored. That of a dead letter is still in its lane.
    fn ends(&self) -> usize {
        match self {
            Self::Park { attempts: 0, .. } | Self::Letter { .. } | Self::Done { .. } => 0,
            Self::Park { .. } | Self::End { .. } => 1,
            Self::Settle { records, .. } => usize::from(!records.is_empty()),
        }
    }

    /// Whether it has to be known where it was stored.
    fn is_looked_up(&self) -> bool {
        matches!(self, Self::Park { .. })
    }
}

/// Opens the producer of a partition. A newer one takes the older one's place: that writes nothing any more.
pub(crate) async fn fence(
    log: &dyn CommitLog,
    group: &str,
    partition: &PartitionId,
) -> Result<Box<dyn TransactionalProducer>, LogError> {
    log.transactional_producer(&transactional_id(group, partition)).await
}

/// The length comes last, because names hold dots: `a.b` of `c` is not `a` of `b.c`.
fn transactional_id(group: &str, partition: &PartitionId) -> String {
    let PartitionId { topic, partition } = partition;
    let length = if aqueduct_core::planted("names-joined-by-dots") { 0 } else { group.len() };
    format!("aqueduct.aside.{group}.{topic}.{partition}.{length}")
}

/// Why nothing more can be written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The partition has a newer owner.
    Fenced,
    /// Not an outage: the partition must stop.
    Stop(String),
}

/// A batch that was written, with the offset at which the own record of each stands, where that is known.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) ops: Vec<Op>,
    pub(crate) result: Result<Vec<Option<Offset>>, Refused>,
}

/// The writer of one partition.
pub(crate) struct Aside {
    queue: VecDeque<Op>,
    writing: Option<BoxFuture<'static, Written>>,
    /// Deliveries whose end waits for what is on its way or waits.
    unstored: usize,
    writer: Arc<Writer>,
    /// Nothing is written any more.
    shut: bool,
}

/// What a batch is written with.
pub(crate) struct Writer {
    pub(crate) group: String,
    pub(crate) log: Arc<dyn CommitLog>,
    pub(crate) consumer: Arc<dyn Consumer>,
    pub(crate) environment: Environment,
    pub(crate) retry: Retry,
    pub(crate) board: Board,
    pub(crate) partition: PartitionId,
    pub(crate) topic_id: Uuid,
    pub(crate) noted: Noted,
    pub(crate) generation: i64,
    pub(crate) progress: Arc<Progress>,
    pub(crate) open: Mutex<Open>,
}

#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Opened at the first batch. After any failure it is opened again: what keeps an evicted member from writing is its
    /// generation.
    producer: Option<Box<dyn TransactionalProducer>>,
    /// Topics that exist.
    ensured: BTreeSet<TopicName>,
}

impl Aside {
    pub(crate) fn new(writer: Writer) -> Self {
        let (queue, writer) = (VecDeque::new(), Arc::new(writer));
        Self { queue, writing: None, unstored: 0, writer, shut: false }
    }

    pub(crate) fn push(&mut self, op: Op) {
        if !self.shut {
            self.unstored += op.ends();
            self.queue.push_back(op);
        }
    }

    /// A batch was refused for good: what follows it would settle past it.
    pub(crate) fn shut(&mut self) {
        self.shut = !aqueduct_core::planted("writes-on-after-a-refusal");
        if self.shut {
            self.queue.clear();
        }
    }

    /// Whether something is on its way or waits.
    pub(crate) fn busy(&self) -> bool {
        self.writing.is_some() || !self.queue.is_empty()
    }

    /// How many deliveries come again that had begun, if nothing more is written.
    pub(crate) fn unstored(&self) -> usize {
        self.unstored
    }

    /// The next batch that was written. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Written {
        let queue = &mut self.queue;
        let writer = &self.writer;
        let written = self
            .writing
            .get_or_insert_with(|| {
                let (mut ops, mut bytes) = (Vec::new(), 0);
                while let Some(op) = queue.front() {
                    bytes += op.size();
                    if !ops.is_empty() && (bytes > MAX_BYTES || ops.len() >= MAX_RECORDS) {
                        break;
                    }
                    ops.extend(queue.pop_front());
                }
                Box::pin(Arc::clone(writer).write(ops))
            })
            .await;
        self.writing = None;
        if written.result.is_ok() {
            self.unstored -= written.ops.iter().map(Op::ends).sum::<usize>();
        }
        written
    }
}

impl Writer {
    async fn write(self: Arc<Self>, ops: Vec<Op>) -> Written {
        let result = self.store(&ops).await;
        Written { ops, result }
    }

    /// Stores a batch, waiting out an unreachable log.
    async fn store(&self, ops: &[Op]) -> Result<Vec<Option<Offset>>, Refused> {
        let once = ops.iter().any(|op| !op.returned().is_empty());
        // Names the batch in the metadata of the settled offset, whichever attempt at it is the one that was stored.
        let batch = once.then(|| self.environment.random_u64());
        let mut failures = 0;
        loop {
            let error = match self.try_store(ops, batch, failures > 0).await {
                Ok(stored) => {
                    if failures > 0 {
                        self.board.partition(&self.partition, |partition| partition.waiting = None);
                    }
                    return Ok(stored);
                }
                Err(error) => error,
            };
            match error.kind() {
                LogErrorKind::StaleGeneration => return Err(Refused::Fenced),
                // As where it is published without a transaction: somebody makes the topic.
                LogErrorKind::TopicMissing if once => {}
                LogErrorKind::Unreachable
                | LogErrorKind::UnknownOutcome
                | LogErrorKind::Held
                | LogErrorKind::Fenced => {}
                _ => return Err(Refused::Stop(cannot(ops, "be stored", &error))),
            }
            failures += 1;
            let waiting = cannot(ops, "be stored now", &error);
            tracing::warn!(group = self.group, reason = waiting, "waiting for an outage to end");
            self.board.partition(&self.partition, |partition| partition.waiting = Some(waiting));
            tokio::time::sleep(self.retry.delay(failures, self.environment.random_u64())).await;
        }
    }

    /// One attempt; `again`: there was one before.
    async fn try_store(
        &self,
        ops: &[Op],
        batch: Option<u64>,
        again: bool,
    ) -> Result<Vec<Option<Offset>>, LogError> {
        let mut open = self.open.lock().await;
        let committed = match batch {
            Some(batch) if again && !aqueduct_core::planted("unknown-outcome-written-again") => {
                // The new producer comes first: what the older one left without an end has one after it.
                self.producer(&mut open).await?;
                self.is_stored(batch).await?
            }
            _ => false,
        };
        if !committed {
            return self.commit(&mut open, ops, batch, |_| true).await;
        }
        if !ops.iter().any(Op::is_looked_up) {
            return Ok(vec![None; ops.len()]);
        }
        // All are stored, and it is not known where. A second copy of what is looked up does no harm.
        self.commit(&mut open, ops, batch, Op::is_looked_up).await
    }

    /// Whether the batch of this name was the last to settle this partition. All that settles it goes through here.
    async fn is_stored(&self, batch: u64) -> Result<bool, LogError> {
        let settled = self.log.settled_offsets(&self.group, &self.partition.topic).await?;
        let index = usize::try_from(self.partition.partition).ok();
        let settled = index.and_then(|index| settled.get(index)?.as_ref());
        let noted = settled.and_then(|settled| Noted::read(&settled.metadata));
        Ok(noted.is_some_and(|noted| noted.batch == Some(batch)))
    }

    /// The open producer, opened unless there is one.
    async fn producer<'a>(
        &self,
        open: &'a mut Open,
    ) -> Result<&'a mut Box<dyn TransactionalProducer>, LogError> {
        Ok(match &mut open.producer {
            Some(producer) => producer,
            none => none.insert(fence(&*self.log, &self.group, &self.partition).await?),
        })
    }

    /// Commits those of the ops that are written, and settles what all of them do.
    async fn commit(
        &self,
        open: &mut Open,
        ops: &[Op],
        batch: Option<u64>,
        written: impl Fn(&Op) -> bool,
    ) -> Result<Vec<Option<Offset>>, LogError> {
        let mut offset = self.progress.settled.load(Ordering::Acquire);
        let (mut records, mut own) = (Vec::new(), Vec::new());
        for op in ops {
            if let Op::Settle { settled, .. } = op {
                offset = offset.max(*settled);
            }
            if !written(op) {
                own.push(None);
                continue;
            }
            own.push(match self.record(op)? {
                Some(record) => {
                    if !open.ensured.contains(&record.topic) {
                        self.ensure(&record.topic).await?;
                        open.ensured.insert(record.topic.clone());
                    }
                    records.push(record);
                    Some(records.len() - 1)
                }
                None => None,
            });
            records.extend_from_slice(op.returned());
        }
        let settlement = Settlement {
            partition: self.partition.clone(),
            generation: self.generation,
            offset,
            metadata: Noted { batch, ..self.noted }.to_string(),
        };
        let fenced = !aqueduct_core::planted("copy-not-fenced");
        let settlements = fenced.then(|| (self.consumer.group_token(), vec![settlement]));
        let committed = self.producer(open).await?.commit(records, settlements).await;
        if committed.is_err() {
            // After an unknown outcome a producer is not used again.
            open.producer = None;
        }
        let positions = committed?;
        Ok(own.into_iter().map(|own| Some(positions.get(own?)?.offset)).collect())
    }

    async fn ensure(&self, topic: &TopicName) -> Result<(), LogError> {
        let (log, source) = (&*self.log, &self.partition.topic);
        if *topic == parking::topic_of(&self.group, source)? {
            parking::ensure(log, &self.group, source).await
        } else if *topic == parking::control_topic(&self.group)? {
            parking::ensure_control(log, &self.group).await
        } else {
            dead_letter::ensure(log, &self.group, source).await
        }
    }

    /// The record of ours that an op is, if it is one.
    fn record(&self, op: &Op) -> Result<Option<NewRecord>, LogError> {
        let now = self.environment.now();
        let encode = |error: serde_json::Error| {
            LogError::with_source(LogErrorKind::Configuration, "a record of ours does not encode", error)
        };
        let parked = |offset: Offset, value| {
            Ok(NewRecord {
                topic: parking::topic_of(&self.group, &self.partition.topic)?,
                partition: Some(self.partition.partition),
                key: Some(frame::key(self.topic_id, offset)),
                headers: aqueduct_core::Headers::default(),
                value,
                timestamp: now,
            })
        };
        let record = match op {
            Op::Settle { .. } => return Ok(None),
            Op::Letter { record, reason, attempts, .. } => {
                dead_letter::letter(&self.group, record, reason, *attempts, now)
            }
            Op::Park { record, reason, attempts, due, .. } => {
                let reason = dead_letter::shorten(reason);
                let value = frame::write(record, &reason, *attempts, *due).map_err(encode)?;
                parked(record.offset(), Some(value))
            }
            Op::End { offset, .. } => parked(*offset, None),
            Op::Done { release, failure } => {
                let topic = parking::control_topic(&self.group)?;
                control::done(&topic, *release, failure.clone(), now).map_err(encode)
            }
        };
        record.map(Some)
    }
}

/// Names what waits: the first of a batch, since all wait for the same.
fn cannot(ops: &[Op], be: &str, error: &LogError) -> String {
    match ops.first() {
        Some(Op::Letter { record, reason, .. }) => {
            format!("the dead letter of {record:?} cannot {be}: {error} (it failed with: {reason})")
        }
        Some(Op::Park { record, reason, .. }) => {
            format!("the parked copy of {record:?} cannot {be}: {error} (it failed with: {reason})")
        }
        Some(Op::End { key, offset, .. }) => {
            format!("the end mark of key {} at offset {offset} cannot {be}: {error}", key.escape_ascii())
        }
        Some(Op::Settle { settled, records }) => {
            let count = records.len();
            format!("what handlers returned below offset {settled} ({count} events) cannot {be}: {error}")
        }
        Some(Op::Done { release, .. }) => format!("the end of release {release} cannot {be}: {error}"),
        None => format!("nothing cannot {be}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3. Red when names are joined by dots alone: two groups then fence each other without end.
    #[test]
    fn the_producers_of_two_groups_have_two_names() {
        let id = |group, topic| {
            let topic = TopicName::new(topic).unwrap();
            transactional_id(group, &PartitionId { topic, partition: 3 })
        };
        assert_ne!(id("a.b", "c"), id("a", "b.c"));
        assert_eq!(id("till", "baskets"), "aqueduct.aside.till.baskets.3.4");
    }
}
