//! The port to a service's database: where handlers take effect once (DESIGN P4).
//!
//! One row per (subscription, topic id, partition) holds the owner's generation and the settled offset. A delivery
//! above it leaves a mark by position, and a mark by event id, in the transaction of its effects.

use std::{any::Any, fmt, sync::Arc};

use uuid::Uuid;

use crate::{
    BoxFuture,
    environment::{Environment, Timestamp},
    error::BoxError,
    log::{CommitLog, Offset, PartitionId},
    record::NewRecord,
};

/// A partition as one subscription reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The subscription (consumer group).
    pub subscription: String,
    /// The topic's id: a topic made again starts anew.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
}

/// What taking a partition found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The token for everything done under this assignment.
    pub claim: Claim,
    /// The settled offset in the database, or none where nothing was ever settled there.
    pub settled: Option<Offset>,
    /// Offsets at or above the settled one that have ended.
    pub ended: Vec<Offset>,
}

/// The right to write for a partition until someone takes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The position row.
    pub row: i64,
    /// The generation that it was raised to.
    pub generation: i64,
}

/// Which delivery of a record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its turn, at or above the settled offset.
    Live(Offset),
    /// Released after it was parked: the settled offset may have passed it, and the event's mark alone decides.
    Released(Offset),
}

impl Place {
    /// The offset of the record.
    #[must_use]
    pub fn offset(self) -> Offset {
        match self {
            Self::Live(offset) | Self::Released(offset) => offset,
        }
    }
}

/// What an inbox remembers of an event: [`EventId::mark`](crate::EventId::mark).
pub type EventMark = [u8; 16];

/// What [`Effects::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// This delivery has not ended: here is its transaction, marks included.
    New(Box<dyn Transaction>),
    /// This position or this event id has ended already; nothing to do. Its position is marked.
    Ended,
    /// The partition was taken by a newer owner; nothing may be written.
    Fenced,
}

/// Keeps positions, marks and the outbox of a service.
pub trait Effects: Send + Sync + fmt::Debug + 'static {
    /// The kind of database, as in `Tx<Sqlite>`.
    fn kind(&self) -> &'static str;

    /// What the guarantee line may say: such as `position and event id for 7 days`.
    fn guarantee(&self) -> String;

    /// Takes a partition: raises the generation of its row, so that no older owner writes any more.
    fn take<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Taken, EffectsError>>;

    /// Begins the transaction of one delivery. Without `event` there is no mark by event id.
    fn begin(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<Begin, EffectsError>>;

    /// Whether a delivery has ended: what an unknown commit is resolved by.
    fn ended(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<bool, EffectsError>>;

    /// Raises the settled offset and deletes the marks below it. `false`: fenced, nothing was written.
    fn raise(&self, claim: Claim, settled: Offset) -> BoxFuture<'_, Result<bool, EffectsError>>;

    /// Moves staged events to the log, in order, until its `stop` is ready and the batch in flight has ended. Waits for
    /// the lease; ends with an error when it is deposed or cannot go on.
    fn relay(&self, relay: Relay) -> BoxFuture<'static, Result<(), EffectsError>>;

    /// What waits in the outbox.
    fn outbox(&self) -> BoxFuture<'_, Result<OutboxStatus, EffectsError>>;
}

/// Takes what stands in a relay's way, for the status of its app.
pub type Report = Arc<dyn Fn(Option<String>) + Send + Sync>;

/// How staged events come into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayMode {
    /// Each batch is a transaction of the log, with the relay's cursor in it. Readers of committed records meet each event
    /// once.
    #[default]
    ExactlyOnce,
    /// Without transactions: sooner in the log, and readers of uncommitted records meet nothing that was rolled back. After
    /// a crash, a takeover or a refused record, events come again under the same ids. A relay that was paused and is
    /// deposed may still write what it had under way, behind newer events.
    AtLeastOnce,
}

/// What a relay works with.
pub struct Relay {
    /// The outbox's name: the service. It names the transactional id and the cursor's topic.
    pub outbox: String,
    /// How often an event may come into the log.
    pub mode: RelayMode,
    /// Where the events go.
    pub log: Arc<dyn CommitLog>,
    /// The clock and the random source.
    pub environment: Environment,
    /// Told why the relay cannot go on now, and `None` once it goes on.
    pub report: Report,
    /// Ready when the relay shall end.
    pub stop: BoxFuture<'static, ()>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("outbox", &self.outbox)
            .field("mode", &self.mode)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// What waits in an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Staged events that the log has not acknowledged.
    pub waiting: i64,
    /// When the oldest of them was staged.
    pub oldest: Option<Timestamp>,
}

/// The transaction of one delivery. Dropped without a commit, it rolls back.
pub trait Transaction: Send + fmt::Debug {
    /// What the handler's `Tx` extractor takes: handed out once, given back when the `Tx` is dropped.
    fn lease(&mut self) -> Option<Box<dyn Any + Send>>;

    /// Appends an event to what will be written to the outbox; memory only.
    fn stage(&mut self, record: NewRecord);

    /// Writes what was staged and commits.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), CommitError>>;
}

/// A commit that did not say `Ok`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Nothing was written, because of what the handler did or staged: a failed attempt.
    #[error("the transaction was refused: {0}")]
    Refused(crate::handler::HandlerError),
    /// Nothing was written; trying again is safe.
    #[error("the transaction was not committed: {0}")]
    NotCommitted(#[source] EffectsError),
    /// It may have been written: look the mark up.
    #[error("whether the transaction was committed is not known: {0}")]
    Unknown(#[source] EffectsError),
}

/// An error of the service's database.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source}")]
pub struct EffectsError {
    /// What was being done, and where.
    pub context: String,
    /// What the database said.
    pub source: BoxError,
}

impl EffectsError {
    /// An error with its place in words.
    pub fn new(context: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { context: context.into(), source: source.into() }
    }
}
