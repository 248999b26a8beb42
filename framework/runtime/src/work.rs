//! Work under way beside a partition's task: handlers that wait in their slots, and longer ways in a box.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
};

use aqueduct_core::{
    BoxFuture, Draft, HandlerError, Record,
    effects::Place,
    handler::{Route, RouteSlot},
    log::Offset,
};
use futures_util::FutureExt;

use crate::{
    delivery::{Assigned, Attempted, Shared},
    lanes::{KeyBytes, LaneId},
    places::Permit,
    releasing::Loaded,
};

/// A handler at work in its slot.
pub(crate) struct Started {
    pub(crate) route: usize,
    pub(crate) slot: RouteSlot,
}

impl Started {
    /// Drops a handler that panicked; what it held may panic once more.
    pub(crate) fn discard(self) {
        // There is nothing left to do with a second panic: the first is the attempt's failure.
        drop(catch_unwind(AssertUnwindSafe(|| drop(self.slot))));
    }
}

/// Slots that are free, by route.
pub(crate) struct Spare(Vec<Vec<RouteSlot>>);

/// The most slots that are kept of each route.
const MAX_SPARE: usize = 128;

impl Spare {
    pub(crate) fn new(routes: usize) -> Self {
        Self((0..routes).map(|_| Vec::new()).collect())
    }

    pub(crate) fn take(&mut self, route: usize, make: &dyn Route) -> RouteSlot {
        self.0.get_mut(route).and_then(Vec::pop).unwrap_or_else(|| make.slot())
    }

    /// Takes a slot back whose run is over.
    pub(crate) fn give(&mut self, started: Started) {
        if let Some(free) = self.0.get_mut(started.route).filter(|free| free.len() < MAX_SPARE) {
            free.push(started.slot);
        }
    }
}

/// What ended beside the partition's task.
pub(crate) enum Finished {
    /// An attempt; without its permit where its task died with it.
    Attempt { lane: LaneId, attempted: Attempted, slot: Option<Started>, permit: Option<Permit> },
    /// A dead letter's position was marked, or cannot be.
    Marked { lane: LaneId, attempted: Attempted },
    /// A parked record was read back.
    Loaded { key: KeyBytes, offset: Offset, loaded: Result<Loaded, String> },
}

/// An attempt that begins, or goes on, beside the partition's task.
pub(crate) struct Attempt {
    pub(crate) lane: LaneId,
    pub(crate) record: Record,
    /// Its number, from 1.
    pub(crate) number: u32,
    pub(crate) place: Place,
    pub(crate) permit: Permit,
}

impl Attempt {
    /// From where it stands to its end.
    pub(crate) async fn run(
        self,
        shared: Arc<Shared>,
        assigned: Arc<Assigned>,
        begun: Option<Started>,
        returned: Option<Vec<Draft>>,
    ) -> Finished {
        let Self { lane, record, number, place, permit } = self;
        let (attempted, slot) = shared.attempt(&assigned, &record, place, number, begun, returned).await;
        Finished::Attempt { lane, attempted, slot, permit: Some(permit) }
    }

    fn end(self, attempted: Attempted, slot: Option<Started>) -> Finished {
        Finished::Attempt { lane: self.lane, attempted, slot, permit: Some(self.permit) }
    }
}

/// Something under way.
pub(crate) enum Work {
    /// A handler that waits. Where it returns nothing there is nothing else to do, so it needs no box, and its record is
    /// not read again.
    Handler(Attempt, Started),
    /// Whatever else.
    Boxed(BoxFuture<'static, Finished>),
    /// It has ended.
    Over,
}

impl Work {
    pub(crate) fn boxed(work: impl Future<Output = Finished> + Send + 'static) -> Self {
        Self::Boxed(work.boxed())
    }

    /// The route of a handler that the next poll runs.
    pub(crate) fn route(&self) -> Option<usize> {
        match self {
            Self::Handler(_, started) => Some(started.route),
            Self::Boxed(_) | Self::Over => None,
        }
    }

    /// Runs on. What all attempts of a partition share is lent: to count who shares it, from several threads, would cost
    /// a handler that waits more than the rest of its way.
    pub(crate) fn poll(
        &mut self,
        shared: &Arc<Shared>,
        assigned: &Arc<Assigned>,
        cx: &mut Context<'_>,
    ) -> Poll<Finished> {
        let polled = match self {
            Self::Boxed(work) => return work.poll_unpin(cx),
            Self::Over => return Poll::Pending,
            Self::Handler(_, started) => {
                let slot = started.slot.as_mut();
                match catch_unwind(AssertUnwindSafe(|| slot.poll(cx))) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(result)) => Ok(result),
                    Err(panic) => Err(panic),
                }
            }
        };
        let Self::Handler(attempt, started) = std::mem::replace(self, Self::Over) else {
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Ok(Ok(drafts)) if drafts.is_empty() => {
                shared.succeeded(started.route);
                attempt.end(Attempted::Ended, Some(started))
            }
            Ok(Ok(drafts)) => {
                let (own, its) = (Arc::clone(shared), Arc::clone(assigned));
                *self = Self::boxed(attempt.run(own, its, Some(started), Some(drafts)));
                return self.poll(shared, assigned, cx);
            }
            Ok(Err(error)) => attempt.end(Attempted::Failed(error), Some(started)),
            Err(panic) => {
                started.discard();
                attempt.end(Attempted::Failed(panicked(&*panic)), None)
            }
        })
    }
}

/// A panic is one failed attempt of its delivery, no more.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> HandlerError {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    HandlerError::from(format!("the handler panicked: {}", text.unwrap_or("no message")))
}
