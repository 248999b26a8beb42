//! The port to the commit log. Adapters: memory, embedded, Kafka.
//!
//! Methods return one boxed future per batch, none per record. Blocking work is the adapter's to move off the
//! caller's thread. All handles are safe to drop at any time: what was acknowledged is stored, what was not may be.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    BoxFuture,
    environment::Timestamp,
    error::LogError,
    name::TopicName,
    record::{NewRecord, RecordBatch},
};

/// The place of a record in its partition. Offsets grow and have holes: the next one is one that was read, never +1.
pub type Offset = i64;

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicName,
    /// The number, from 0.
    pub partition: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a record was stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// Topic and partition.
    pub partition: PartitionId,
    /// The offset.
    pub offset: Offset,
}

/// What a topic shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name.
    pub name: TopicName,
    /// How many partitions; none for the log's default.
    pub partitions: Option<i32>,
    /// Records older than this may be removed; none keeps them.
    pub retention: Option<Duration>,
    /// Beyond this many bytes in a partition the oldest records may be removed; none keeps them.
    pub retention_bytes: Option<u64>,
    /// Whether only the last record of each key need be kept.
    pub compacted: bool,
    /// How many brokers have a copy; none for the log's default. A log without brokers has none, whatever is asked.
    pub replication: Option<i32>,
    /// How many of the copies must be written before a record is acknowledged; none for the log's default. As above.
    pub min_insync_replicas: Option<i32>,
}

impl TopicSpec {
    /// A topic that keeps everything, with the log's defaults.
    #[must_use]
    pub fn new(name: TopicName) -> Self {
        Self {
            name,
            partitions: None,
            retention: None,
            retention_bytes: None,
            compacted: false,
            replication: None,
            min_insync_replicas: None,
        }
    }

    /// In what a topic as it is differs from this declaration: a line each. What the declaration leaves to the log, and
    /// copies where the log has none, differ in nothing.
    #[must_use]
    pub fn differences(&self, actual: &Self) -> Vec<String> {
        let number = |what: &str, declared: Option<i32>, actual: Option<i32>| {
            let (declared, actual) = declared.zip(actual)?;
            (declared != actual).then(|| format!("{what}: {actual}, declared {declared}"))
        };
        let time = |time: Option<Duration>| {
            time.map_or_else(|| "for ever".to_owned(), |time| format!("for {} s", time.as_secs_f64()))
        };
        let size = |size: Option<u64>| size.map_or_else(|| "all".to_owned(), |size| format!("{size} bytes"));
        let kept = |what: &str, declared: String, actual: String| {
            (declared != actual).then(|| format!("{what} {actual}, declared {declared}"))
        };
        let last = |compacted: bool| if compacted { "the last of each key" } else { "all" }.to_owned();
        [
            number("partitions", self.partitions, actual.partitions),
            number("replication", self.replication, actual.replication),
            number("min.insync.replicas", self.min_insync_replicas, actual.min_insync_replicas),
            kept("records are kept", time(self.retention), time(actual.retention)),
            kept("a partition keeps", size(self.retention_bytes), size(actual.retention_bytes)),
            kept("of a key's records it keeps", last(self.compacted), last(actual.compacted)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id: another one after it was deleted and made again.
    pub id: Uuid,
    /// Its specification, partitions filled in.
    pub spec: TopicSpec,
}

/// What a log can do; the guarantee line says only what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The log's kind, such as `embedded`.
    pub name: &'static str,
    /// Acknowledged records survive the process.
    pub durable: bool,
    /// A group can be shared by several processes.
    pub shared_groups: bool,
    /// The largest record that the log takes from a producer, in bytes of key, value and headers. A transaction may
    /// exceed it by [`LETTER_BYTES`], so that the copy of a record fits with its reason.
    pub max_record_bytes: usize,
}

/// How much larger than a record its dead letter may be: 64 KiB.
pub const LETTER_BYTES: usize = 64 * 1024;

/// Stores records in topics.
pub trait CommitLog: Send + Sync + fmt::Debug + 'static {
    /// What this log can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes a topic unless it is there; either way, says what it is.
    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>>;

    /// Says what a topic is, or none where it does not exist.
    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>>;

    /// Adds partitions to a topic that has fewer than so many. It is for topics of ours that follow another one: a key may
    /// move to another partition. `Configuration` where the log's topics do not grow.
    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>>;

    /// Opens a producer.
    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>>;

    /// Opens the transactional producer of `id`, fencing any older one of that id.
    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>>;

    /// Joins `group` to read `topics`, which must exist.
    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>>;

    /// Reads a partition without a group.
    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>>;

    /// The offset after the last record of each partition of a topic, by partition number: of those too that a transaction has
    /// written and that cannot be read yet.
    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>>;

    /// What a group has settled in a topic, by partition number; none where it has settled nothing.
    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>>;

    /// Stops taking work, finishes what was taken, and releases the storage. Later calls fail as `Closed`.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this offset, or the next one there is.
    Offset(Offset),
    /// At the first record not older than this.
    Time(Timestamp),
    /// At the first record there is.
    Earliest,
    /// After the last record there is.
    Latest,
}

/// What became of each record of a batch, in its order.
pub type Outcomes = Vec<Result<Position, LogError>>;

/// Told once, by the log, what became of a batch. Called on the log's own thread: it must not block or panic.
pub trait Receipt: Send + 'static {
    /// The outcomes, as many as there were records.
    fn complete(self: Box<Self>, outcomes: Outcomes);
}

impl<F: FnOnce(Outcomes) + Send + 'static> Receipt for F {
    fn complete(self: Box<Self>, outcomes: Outcomes) {
        self(outcomes);
    }
}

/// Appends records.
pub trait Producer: Send + Sync + fmt::Debug {
    /// Takes the batch's place in the order now, without waiting; the receipt follows. When a record of a key
    /// fails, those of the same key enqueued after it and before its receipt fail as `Held`.
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>);
}

/// Appends records, and settles offsets with them, as one: all or nothing.
pub trait TransactionalProducer: Send + fmt::Debug {
    /// Commits `records`, and with them the settlements of a consumer of this log.
    ///
    /// `Fenced`: a newer producer of this id exists, this one is over. `StaleGeneration`: a settled partition has
    /// a newer owner, nothing was written. `UnknownOutcome`: open a new producer before anything else.
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>>;
}

/// Proof of membership that a transaction carries: what the log needs to check the generation.
#[derive(Clone)]
pub struct GroupToken(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for GroupToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupToken")
    }
}

/// How far a partition has been settled, under which generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The partition.
    pub partition: PartitionId,
    /// The generation of the assignment that it belongs to.
    pub generation: i64,
    /// The settled offset: every delivery below it has ended.
    pub offset: Offset,
    /// Versioned metadata of ours, kept with the offset.
    pub metadata: String,
}

/// What a group has settled in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The settled offset.
    pub offset: Offset,
    /// The metadata that came with it last: of one that moved nothing too, unless it came late.
    pub metadata: String,
}

/// A partition given to this consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: PartitionId,
    /// The id of its topic.
    pub topic_id: Uuid,
    /// The number of this assignment: higher than any before it.
    pub generation: i64,
    /// What the group has settled, or none where it has settled nothing.
    pub settled: Option<Settled>,
}

/// What a consumer is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Signal {
    /// These partitions are ours; call [`Consumer::assign`] to read them.
    Assigned(Vec<Assignment>),
    /// These partitions are wanted elsewhere: drain, settle, then answer with [`Consumer::revoked`].
    Revoking(Vec<PartitionId>),
    /// These partitions are no longer ours: nothing of them may be settled.
    Lost(Vec<PartitionId>),
}

/// A member of a consumer group.
pub trait Consumer: Send + Sync + fmt::Debug {
    /// The next signal. Dropping the future loses none.
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>>;

    /// Asks the group itself which of these assignments are still this member's, and gives those with where the group
    /// stands in them now. What this process has heard is not enough: one that slept has lost partitions and does not know,
    /// and would take them from their owner where something else than the group decides who writes, as a database does.
    ///
    /// Kafka's groups answer for the member, by taking once more what is settled; which partitions are its own is what the
    /// process has heard. Of partitions in which nothing was ever settled they answer nothing: settling there asks.
    ///
    /// `Unreachable` where the group does not answer, `Held` while one of them is being settled: to be asked again.
    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>>;

    /// Starts reading assigned partitions, one reader each, in the order given. `StaleGeneration` where one is known to be not
    /// this member's any more.
    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>>;

    /// Answers [`Signal::Revoking`].
    fn revoked(&self, partitions: &[PartitionId]);

    /// Stores settled offsets; each has its own result. `StaleGeneration` where a partition has a newer owner, `Held`
    /// while a transaction settles the partition: to be asked again.
    /// `OffsetOutOfRange`: the offset is negative or beyond the end, so nothing below it can have ended; not stored.
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>>;

    /// Proof of membership, for a transaction that settles. Take it anew for each.
    fn group_token(&self) -> GroupToken;

    /// Leaves the group. Dropping the consumer does so too, without waiting.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Reads one partition in offset order. Back-pressure is not reading.
pub trait PartitionReader: Send + fmt::Debug {
    /// Where the next read begins: before the first read, what its [`Start`] came to.
    fn position(&self) -> Offset;

    /// Waits until the position moves, and gives the records that it passed: at most `max`, and none where it passed
    /// a hole alone, such as what compaction removed or a transaction's marker. Dropping the future loses none.
    /// `OffsetOutOfRange`: retention passed the reader, or the log went back. `Unreadable`: the position stays, and so does
    /// the error; [`PartitionReader::seek`] passes it.
    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>>;

    /// Goes on at `offset`, whatever lies between.
    fn seek(&mut self, offset: Offset);
}
