//! What is simulated: a subscription with its handlers, what they work on, and what must be true at the end.

use std::{fmt, sync::Arc};

use aqueduct_core::{BoxError, Draft, EventSet};
use aqueduct_runtime::Subscription;

use super::{
    observer::{Nobody, Observer},
    plan::Plan,
    process::Process,
    world::World,
};

type Subscribe<S> = Box<dyn Fn(&Plan) -> Subscription<S>>;
type MakeState<S> = Box<dyn Fn(&Arc<Process>) -> S>;
type Finally = Box<dyn Fn(&World) -> Result<(), BoxError>>;

/// One run's case. It is made anew for each seed, so that what it captures is of that run alone.
pub struct Case<S> {
    pub(crate) subscribe: Subscribe<S>,
    pub(crate) state: MakeState<S>,
    pub(crate) events: Vec<Draft>,
    pub(crate) database: bool,
    pub(crate) repair: Box<dyn Fn()>,
    pub(crate) finally: Finally,
    pub(crate) observer: Arc<dyn Observer>,
}

impl<S: Clone + Send + Sync + 'static> Case<S> {
    /// A case of a subscription. The first closure makes it for each process: take the run's options with
    /// [`Plan::apply`], or set your own. The second makes the state that its handlers get: what is made in it dies with
    /// the process, what is cloned into it outlives it, as another system would.
    pub fn new(
        subscribe: impl Fn(&Plan) -> Subscription<S> + 'static,
        state: impl Fn(&Arc<Process>) -> S + 'static,
    ) -> Self {
        Self {
            subscribe: Box::new(subscribe),
            state: Box::new(state),
            events: Vec::new(),
            database: false,
            repair: Box::new(|| {}),
            finally: Box::new(|_| Ok(())),
            observer: Arc::new(Nobody),
        }
    }

    /// What is published, in the order of each key.
    ///
    /// # Panics
    /// An event does not encode.
    #[must_use]
    pub fn events<E: EventSet>(self, events: impl IntoIterator<Item = E>) -> Self {
        self.drafts(events.into_iter().map(|event| event.draft().expect("the event encodes")))
    }

    /// What is published, as drafts; their ids are the run's.
    #[must_use]
    pub fn drafts(mut self, events: impl IntoIterator<Item = Draft>) -> Self {
        self.events.extend(events);
        self
    }

    /// Gives the service the simulated database, for handlers that take [`Tx`](super::Tx).
    #[must_use]
    pub fn database(self) -> Self {
        Self { database: true, ..self }
    }

    /// What an operator repairs when all faults are over, before processes start again.
    #[must_use]
    pub fn repair(self, repair: impl Fn() + 'static) -> Self {
        Self { repair: Box::new(repair), ..self }
    }

    /// What must be true when all is settled.
    #[must_use]
    pub fn finally<E: Into<BoxError>>(self, finally: impl Fn(&World) -> Result<(), E> + 'static) -> Self {
        Self { finally: Box::new(move |world| finally(world).map_err(Into::into)), ..self }
    }

    /// Who is told what happens.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }
}

impl<S> fmt::Debug for Case<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("events", &self.events.len()).finish_non_exhaustive()
    }
}
