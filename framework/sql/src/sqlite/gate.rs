//! The gate to the one write connection: first in, first out.
//!
//! A group is one SQLite transaction. Its connection goes from waiter to waiter, each in a savepoint of its own; when
//! nobody waits, or the group is large or old, it goes back to the writer's thread, which commits. So what queued
//! during one sync is the next group, without a timer.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    position::Standing,
    session::{Lent, Session},
};
use crate::error::DatabaseError;

/// Turns of one group.
const MAX_TURNS: usize = 256;
/// A group older than this takes no more turns: who is in it waits for the commit.
const MAX_AGE: Duration = Duration::from_millis(10);
/// A turn that holds the connection for longer is reported.
pub(super) const SLOW_TURN: Duration = Duration::from_secs(1);

/// Whose turn it is, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Delivery { position: i64, offset: i64 },
    Take,
    Raise { position: i64 },
    Write,
    Relay,
}

/// What became of a group.
pub(super) type Outcome = Result<(), CommitFailure>;

#[derive(Debug, Clone)]
pub(super) enum CommitFailure {
    /// Rolled back.
    NotCommitted(Arc<str>),
    /// Rolled back because of what this turn, alone in its group, wrote: a deferred constraint.
    Refused(Arc<str>),
    /// The sync failed.
    Unknown(Arc<str>),
}

/// The turns that share a commit.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) began: Instant,
    pub(super) turns: usize,
    pub(super) outcomes: Vec<oneshot::Sender<Outcome>>,
    /// Staged events by type, written before the commit.
    pub(super) published: HashMap<String, i64>,
    /// The positions of its deliveries, read once.
    pub(super) standings: Vec<Standing>,
    /// SQLite rolled the whole transaction back within a turn.
    pub(super) broken: Option<Arc<str>>,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            turns: 0,
            outcomes: Vec::new(),
            published: HashMap::new(),
            standings: Vec::new(),
            broken: None,
        }
    }
}

/// Why there are no more turns.
#[derive(Debug, Clone)]
pub(super) enum Over {
    Closed,
    Poisoned(Arc<str>),
}

struct Waiter {
    turn: Turn,
    hand: oneshot::Sender<Session>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiter>,
    /// The connection, on its way to the writer's thread.
    back: Option<Box<Lent>>,
    holder: Option<(Turn, Instant)>,
    over: Option<Over>,
    /// After a failed commit this many turns go alone, so that one bad turn does not fail its neighbours again.
    alone: usize,
    /// The writer waits for work: who brings some wakes it. While it waits for the connection a new waiter is none of
    /// its business.
    idle: bool,
}

/// The queue in front of the write connection.
pub(super) struct Gate {
    path: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
    /// Told after a commit that staged events.
    pub(super) staged: Notify,
}

impl Gate {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, state: Mutex::default(), wake: Condvar::new(), staged: Notify::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn error(&self, over: Over) -> DatabaseError {
        let path = self.path.clone();
        match over {
            Over::Closed => DatabaseError::Closed { path },
            Over::Poisoned(reason) => DatabaseError::Poisoned { path, reason },
        }
    }

    pub(super) fn sql(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sql { path: self.path.clone(), source }
    }

    pub(super) fn failure(&self, failure: CommitFailure) -> DatabaseError {
        let path = self.path.clone();
        match failure {
            CommitFailure::NotCommitted(reason) | CommitFailure::Refused(reason) => {
                DatabaseError::NotCommitted { path, reason }
            }
            CommitFailure::Unknown(reason) => DatabaseError::Poisoned { path, reason },
        }
    }

    /// Waits for what becomes of a turn that finished.
    pub(super) async fn outcome(&self, outcome: oneshot::Receiver<Outcome>) -> Result<(), DatabaseError> {
        match outcome.await {
            Ok(outcome) => outcome.map_err(|failure| self.failure(failure)),
            // The writer answers every turn, unless it panicked.
            Err(_) => Err(self.error(self.over().unwrap_or(Over::Closed))),
        }
    }

    pub(super) fn over(&self) -> Option<Over> {
        self.state().over.clone()
    }

    /// Waits for a turn; the place in the queue is taken at the first poll. Dropping the future gives it up.
    pub(super) async fn turn(self: &Arc<Self>, turn: Turn) -> Result<Session, DatabaseError> {
        let (hand, turn_comes) = oneshot::channel();
        let idle = {
            let mut state = self.state();
            if let Some(over) = state.over.clone() {
                return Err(self.error(over));
            }
            state.queue.push_back(Waiter { turn, hand });
            std::mem::take(&mut state.idle)
        };
        if idle {
            self.wake.notify_one();
        }
        match turn_comes.await {
            Ok(mut session) => {
                session.begin();
                Ok(session)
            }
            // Waiters are only let go when the gate is over.
            Err(_) => Err(self.error(self.over().unwrap_or(Over::Closed))),
        }
    }

    /// Gives the connection to the next waiter of this group, or to the writer.
    pub(super) fn pass(self: &Arc<Self>, mut lent: Box<Lent>) {
        loop {
            let now = Instant::now();
            let mut state = self.state();
            if let Some((turn, since)) = state.holder.take() {
                let held = now - since;
                if held > SLOW_TURN {
                    tracing::warn!(
                        database = %self.path.display(), ?turn, held_ms = held.as_millis(),
                        "a turn held the write connection, everyone else waited: await nothing slow inside a transaction"
                    );
                }
            }
            let group = &lent.group;
            let limit = if state.alone > 0 { 1 } else { MAX_TURNS };
            let full = group.turns >= limit || group.broken.is_some() || now - group.began > MAX_AGE;
            let mut next = if full { None } else { state.queue.pop_front() };
            if aqueduct_core::planted("turns-out-of-order")
                && let Some(later) = next.take_if(|_| !state.queue.is_empty())
            {
                next = state.queue.pop_back();
                state.queue.push_front(later);
            }
            let Some(waiter) = next else {
                state.back = Some(lent);
                drop(state);
                self.wake.notify_one();
                return;
            };
            state.holder = Some((waiter.turn, now));
            drop(state);
            match waiter.hand.send(Session::new(lent, Arc::clone(self), waiter.turn)) {
                Ok(()) => return,
                // That waiter went away; on to the next.
                Err(session) => match session.into_lent() {
                    Some(back) => lent = back,
                    None => return,
                },
            }
        }
    }

    /// Lets no new waiter in; who waits is still served.
    pub(super) fn close(&self) {
        self.state().over.get_or_insert(Over::Closed);
        self.wake.notify_all();
    }

    /// Ends everything: a sync failed, or the connection is of no use any more.
    pub(super) fn fail(&self, reason: &Arc<str>) {
        let waiters = {
            let mut state = self.state();
            state.over = Some(Over::Poisoned(Arc::clone(reason)));
            std::mem::take(&mut state.queue)
        };
        drop(waiters);
    }

    /// The writer: waits for work. `false` when the gate is over and nobody waits, none after `patience`.
    pub(super) fn wait_for_work(&self, patience: Duration) -> Option<bool> {
        let mut state = self.state();
        let until = Instant::now() + patience;
        loop {
            // Who gave up waiting is no work: for nobody a closing process would wait for the write lock of another.
            while state.queue.front().is_some_and(|waiter| waiter.hand.is_closed()) {
                state.queue.pop_front();
            }
            if !state.queue.is_empty() {
                return Some(true);
            }
            if state.over.is_some() {
                return Some(false);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.idle = true;
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.idle = false;
        }
    }

    /// The writer: waits until the connection comes back, and says who holds it for long.
    pub(super) fn wait_for_connection(&self) -> Box<Lent> {
        let mut state = self.state();
        loop {
            if let Some(lent) = state.back.take() {
                return lent;
            }
            state = self.wake.wait_timeout(state, SLOW_TURN).unwrap_or_else(PoisonError::into_inner).0;
            if let Some((turn, since)) = state.holder
                && since.elapsed() > SLOW_TURN
            {
                tracing::warn!(
                    database = %self.path.display(), ?turn, held_ms = since.elapsed().as_millis(),
                    waiting = state.queue.len(), "a turn holds the write connection, everyone else waits"
                );
            }
        }
    }

    /// The writer: the group's commit failed, or went well.
    pub(super) fn settle_alone(&self, turns: usize, failed: bool) {
        let mut state = self.state();
        state.alone = if failed { state.alone.max(turns * 2) } else { state.alone.saturating_sub(turns) };
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("path", &self.path).finish_non_exhaustive()
    }
}
