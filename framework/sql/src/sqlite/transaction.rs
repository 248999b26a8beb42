//! A delivery's transaction: its turn at the write connection, lent to the handler in between.

use std::{
    any::Any,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::{
    BoxFuture, NewRecord,
    effects::{Begin, Claim, CommitError, EffectsError, EventMark, Place, Transaction},
};
use rusqlite::Connection;
use tokio::sync::Notify;

use super::{
    database::Inner,
    gate::{CommitFailure, Turn},
    outbox,
    position::Marked,
    session::Session,
};
use crate::{error::DatabaseError, tx::Backend};

/// SQLite, as in `Tx<Sqlite>`: it derefs to [`rusqlite::Connection`].
#[derive(Debug, Clone, Copy)]
pub struct Sqlite;

impl Backend for Sqlite {
    const NAME: &'static str = "sqlite";
    type Lease = Lease;
    type Connection = Connection;
}

pub(super) async fn begin(
    inner: &Arc<Inner>,
    claim: Claim,
    place: Place,
    event: Option<EventMark>,
) -> Result<Begin, DatabaseError> {
    let gate = &inner.gate;
    let turn = Turn::Delivery { position: claim.row, offset: place.offset() };
    let mut session = gate.turn(turn).await?;
    let now = inner.clock.now().as_micros();
    let marked = session.mark(claim, place, event.as_ref(), now);
    match marked.map_err(|source| gate.sql(source))? {
        Marked::New => {
            session.start().map_err(|source| gate.sql(source))?;
            let (staged, inner) = (Vec::new(), Arc::clone(inner));
            Ok(Begin::New(Box::new(Turned { turn, slot: Abandon(Slot::new(session)), staged, inner })))
        }
        Marked::Fenced => Ok(Begin::Fenced),
        Marked::Ended => {
            // Whose mark this is may still be in this very group: the answer is only true once that has committed.
            let outcome = session.finish(outbox::Counts::new()).map_err(|source| gate.sql(source))?;
            if !aqueduct_core::planted("ended-before-its-commit") {
                gate.outcome(outcome).await?;
            }
            Ok(Begin::Ended)
        }
    }
}

/// Where the session lies while nobody uses it.
struct Slot {
    state: Mutex<SlotState>,
    returned: Notify,
}

struct SlotState {
    session: Option<Session>,
    /// The transaction is over: a session that comes back is rolled back.
    abandoned: bool,
}

impl Slot {
    fn new(session: Session) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(SlotState { session: Some(session), abandoned: false }),
            returned: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Session> {
        self.state().session.take()
    }
}

/// What a handler borrows. It gives the session back when it is dropped.
pub struct Lease {
    session: Option<Session>,
    slot: Arc<Slot>,
}

impl Deref for Lease {
    type Target = Connection;

    #[allow(clippy::expect_used, reason = "only `drop` takes the session")]
    fn deref(&self) -> &Connection {
        self.session.as_ref().expect("a lease has its session until it is dropped").conn()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let session = {
            let mut state = self.slot.state();
            if state.abandoned {
                self.session.take()
            } else {
                state.session = self.session.take();
                None
            }
        };
        self.slot.returned.notify_one();
        // Rolls back, outside the lock.
        drop(session);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("session", &self.session).finish_non_exhaustive()
    }
}

/// The transaction's hold on the slot: letting go of it rolls back, now or when the lease comes back.
struct Abandon(Arc<Slot>);

impl Drop for Abandon {
    fn drop(&mut self) {
        let session = {
            let mut state = self.0.state();
            state.abandoned = true;
            state.session.take()
        };
        drop(session);
    }
}

struct Turned {
    turn: Turn,
    slot: Abandon,
    staged: Vec<NewRecord>,
    inner: Arc<Inner>,
}

impl fmt::Debug for Turned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("staged", &self.staged.len()).finish_non_exhaustive()
    }
}

impl Transaction for Turned {
    fn lease(&mut self) -> Option<Box<dyn Any + Send>> {
        let session = self.slot.0.take()?;
        Some(Box::new(Lease { session: Some(session), slot: Arc::clone(&self.slot.0) }))
    }

    fn stage(&mut self, record: NewRecord) {
        self.staged.push(record);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), CommitError>> {
        Box::pin(self.end())
    }
}

impl Turned {
    async fn end(self) -> Result<(), CommitError> {
        let gate = &self.inner.gate;
        let Some(session) = self.slot.0.take() else {
            return Err(self.kept().await);
        };
        if session.conn().is_autocommit() {
            let error =
                "SQLite rolled the transaction back inside the handler (such as by INSERT OR ROLLBACK)";
            return Err(CommitError::Refused(error.into()));
        }
        let counts = if self.staged.is_empty() {
            outbox::Counts::new()
        } else {
            outbox::stage(session.conn(), &self.staged, self.inner.clock.now())
                .map_err(|source| not_committed(gate.sql(source)))?
        };
        let outcome = session.finish(counts).map_err(|source| not_committed(gate.sql(source)))?;
        if aqueduct_core::planted("done-before-the-commit") {
            return Ok(());
        }
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(CommitFailure::Refused(reason))) => Err(CommitError::Refused((*reason).into())),
            Ok(Err(failure @ CommitFailure::NotCommitted(_))) => Err(not_committed(gate.failure(failure))),
            Ok(Err(failure @ CommitFailure::Unknown(_))) => Err(unknown(gate.failure(failure))),
            Err(_) => Err(unknown(gate.failure(CommitFailure::Unknown("the writer's thread ended".into())))),
        }
    }

    /// The handler returned and kept its `Tx`: nobody can write until it lets go.
    async fn kept(&self) -> CommitError {
        tracing::warn!(
            database = %self.inner.gate.path().display(), turn = ?self.turn,
            "a handler kept its Tx beyond its return: its delivery will fail, and everyone waits until the Tx is dropped"
        );
        let session = loop {
            if let Some(session) = self.slot.0.take() {
                break session;
            }
            self.slot.0.returned.notified().await;
        };
        drop(session);
        CommitError::Refused(
            "the handler kept its Tx beyond its return; the transaction was rolled back".into(),
        )
    }
}

fn not_committed(error: DatabaseError) -> CommitError {
    CommitError::NotCommitted(EffectsError::new("committing a delivery", error))
}

fn unknown(error: DatabaseError) -> CommitError {
    CommitError::Unknown(EffectsError::new("committing a delivery", error))
}
