//! One attempt at one record: its handler, its transaction, what it publishes.
//!
//! A kill at any point leaves the delivery open: above the settled offset, and unmarked unless its transaction
//! committed. It is then delivered again, and a committed one is recognised by its mark.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{self, Poll, Waker},
    time::Duration,
};

use aqueduct_core::{
    DecodeError, Draft, HandlerError, LogError, LogErrorKind, NewRecord, Record,
    cloudevents::Incoming,
    effects::{Begin, Claim, CommitError, Effects, EventMark, Place, Transaction},
    handler::{ArgsError, Context, Route},
    log::{Consumer, PartitionId},
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    bus::{Bus, PublishError},
    health::Health,
    places::Pool,
    replay::{Cursors, Range, Returned},
    status::Board,
    subscription::{Routing, Target, Terms},
    work::{Spare, Started, panicked},
};

/// A handler that blocks longer than this, three times within few polls, is not run where it holds up its neighbours. Once
/// is not enough: the machine may have taken the thread away.
pub(crate) const BLOCKED: Duration = Duration::from_millis(1);
const STRIKES: u32 = 3;
const STRIKES_WITHIN: u64 = 16;

/// What all partitions of a subscription share.
pub(crate) struct Shared {
    pub(crate) subscription: Terms,
    pub(crate) routing: Routing,
    pub(crate) bus: Bus,
    pub(crate) effects: Option<Arc<dyn Effects>>,
    /// It replays.
    pub(crate) replay: Option<Replaying>,
    pub(crate) places: Arc<Pool>,
    pub(crate) board: Board,
    /// By route.
    pub(crate) routes: Vec<RouteState>,
}

/// What a replay reads instead of what a group gives, and what becomes of what its handlers return.
#[derive(Debug)]
pub(crate) struct Replaying {
    pub(crate) range: Arc<Range>,
    pub(crate) returned: Returned,
}

/// What is learnt of a route while it runs.
#[derive(Debug, Default)]
pub(crate) struct RouteState {
    pub(crate) health: Arc<Health>,
    /// It blocks: its attempts are tasks of their own.
    pub(crate) blocks: AtomicBool,
    /// Polls that were measured; and how many in short order took long, the last of them at which poll.
    polls: AtomicU64,
    strikes: Mutex<(u32, u64)>,
}

/// The assignment that a delivery belongs to.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) partition: PartitionId,
    pub(crate) topic_id: uuid::Uuid,
    pub(crate) generation: i64,
    pub(crate) claim: Option<Claim>,
}

/// How one attempt went.
#[derive(Debug)]
pub(crate) enum Attempted {
    Ended,
    /// The handler has ended, and this goes into the log with the settled offset.
    Returned(Vec<NewRecord>),
    Fenced,
    /// The handler said no, or panicked.
    Failed(HandlerError),
    /// No attempt can succeed.
    Undecodable(DecodeError),
    /// Something outside does not answer: not the record's fault.
    Outage(String),
}

/// What came of running a handler where its record was read.
pub(crate) enum InPlace {
    /// It is over.
    Over(Attempted),
    /// It waits for something, and wakes the waker that it was polled with.
    Waits(Started),
    /// It has returned events: [`Shared::attempt`] goes on with it.
    Returned(Started, Vec<Draft>),
    /// It needs a transaction, a span, or a thread of its own: begin it by [`Shared::attempt`].
    Elsewhere,
}

impl Shared {
    /// Joins the group, or takes what is to be replayed.
    pub(crate) async fn join(&self) -> Result<Arc<dyn Consumer>, LogError> {
        let log = self.bus.log();
        match &self.replay {
            None => log.consumer(&self.subscription.name, &self.routing.topics).await,
            Some(replay) => Ok(Arc::new(Cursors::new(Arc::clone(&replay.range), Arc::clone(log)))),
        }
    }

    /// What is published of what a handler returned.
    fn kept(&self, drafts: Vec<Draft>) -> Vec<Draft> {
        let muted = self.replay.as_ref().is_some_and(|replay| replay.returned == Returned::Muted);
        if muted && !aqueduct_core::planted("replay-publishes-what-is-muted") { Vec::new() } else { drafts }
    }

    /// Begins the first attempt at `record`, and polls the handler once, here, with `waker`. A handler that is ready at
    /// once costs no task, no queue and no allocation of ours. Tells the route too, where the record has one.
    pub(crate) fn in_place(
        &self,
        assigned: &Assigned,
        record: &Record,
        attempt: u32,
        spare: &mut Spare,
        waker: &Waker,
    ) -> (InPlace, Option<usize>) {
        let (incoming, route) = match self.read(record) {
            Ok(read) => read,
            Err(over) => return (InPlace::Over(over), None),
        };
        (self.poll_in_place(assigned, &incoming, route, attempt, spare, waker), Some(route))
    }

    fn poll_in_place(
        &self,
        assigned: &Assigned,
        incoming: &Incoming<'_>,
        route: usize,
        attempt: u32,
        spare: &mut Spare,
        waker: &Waker,
    ) -> InPlace {
        if assigned.claim.is_some() || incoming.sampled() || self.blocks(route) {
            return InPlace::Elsewhere;
        }
        let (Some(handler), Some(payload)) = (self.routing.route(route), incoming.payload) else {
            return InPlace::Elsewhere;
        };
        let mut slot = spare.take(route, &**handler);
        let replayed = self.replay.is_some();
        let context = Context { state: &(), incoming, payload, attempt, lease: None, replayed };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            slot.as_mut().start(context)?;
            Ok(slot.as_mut().poll(&mut task::Context::from_waker(waker)))
        }));
        match polled {
            Ok(Ok(Poll::Ready(Ok(drafts)))) => {
                let drafts = self.kept(drafts);
                let started = Started { route, slot };
                if !drafts.is_empty() {
                    return InPlace::Returned(started, drafts);
                }
                spare.give(started);
                self.succeeded(route);
                InPlace::Over(Attempted::Ended)
            }
            Ok(Ok(Poll::Ready(Err(error)))) => {
                spare.give(Started { route, slot });
                InPlace::Over(Attempted::Failed(error))
            }
            Ok(Ok(Poll::Pending)) => InPlace::Waits(Started { route, slot }),
            Ok(Err(error)) => InPlace::Over(refused(error)),
            Err(panic) if aqueduct_core::planted("panic-ends-the-partition") => {
                std::panic::resume_unwind(panic)
            }
            Err(panic) => {
                Started { route, slot }.discard();
                InPlace::Over(Attempted::Failed(panicked(&*panic)))
            }
        }
    }

    /// One attempt, from where [`Shared::in_place`] left it or from its beginning.
    pub(crate) async fn attempt(
        &self,
        assigned: &Assigned,
        record: &Record,
        place: Place,
        attempt: u32,
        mut begun: Option<Started>,
        returned: Option<Vec<Draft>>,
    ) -> (Attempted, Option<Started>) {
        let tried = self.try_attempt(assigned, record, place, attempt, &mut begun, returned);
        let tried = AssertUnwindSafe(tried).catch_unwind().await;
        let attempted = match tried {
            Ok(Ok(attempted) | Err(attempted)) => attempted,
            Err(panic) => {
                if let Some(begun) = begun.take() {
                    begun.discard();
                }
                Attempted::Failed(panicked(&*panic))
            }
        };
        if let (Attempted::Ended | Attempted::Returned(_), Some(begun)) = (&attempted, &begun) {
            self.succeeded(begun.route);
        }
        (attempted, begun)
    }

    async fn try_attempt(
        &self,
        assigned: &Assigned,
        record: &Record,
        place: Place,
        attempt: u32,
        begun: &mut Option<Started>,
        returned: Option<Vec<Draft>>,
    ) -> Result<Attempted, Attempted> {
        let (incoming, route) = self.read(record)?;
        let Some(handler) = self.routing.route(route) else { return Ok(Attempted::Ended) };
        let payload = incoming.payload.unwrap_or_default();
        let replayed = self.replay.is_some();
        let context = Context { state: &(), incoming: &incoming, payload, attempt, lease: None, replayed };
        let Some((effects, claim)) = self.effects.as_ref().zip(assigned.claim) else {
            let drafts = match returned {
                Some(drafts) => self.kept(drafts),
                None => self.call(&**handler, route, context, begun).await?,
            };
            if !drafts.is_empty() {
                let records = self.consequences(drafts, &incoming)?;
                if self.subscription.exactly_once
                    && !aqueduct_core::planted("returned-beside-the-transaction")
                {
                    return Ok(Attempted::Returned(records));
                }
                self.bus.publish_records(records).await.map_err(publish_failed)?;
            }
            return Ok(Attempted::Ended);
        };
        let mark = incoming.id().mark(incoming.source());
        let delivery = Delivery { effects, claim, place, mark };
        let (mut transaction, drafts) = if handler.database().is_some() {
            let mut transaction = match delivery.begin().await? {
                Ok(transaction) => transaction,
                Err(attempted) => return Ok(attempted),
            };
            let context = Context { lease: transaction.lease(), ..context };
            let drafts = self.call(&**handler, route, context, begun).await?;
            (transaction, drafts)
        } else {
            let drafts = self.call(&**handler, route, context, begun).await?;
            match delivery.begin().await? {
                Ok(transaction) => (transaction, drafts),
                Err(attempted) => return Ok(attempted),
            }
        };
        if !drafts.is_empty() {
            for record in self.consequences(drafts, &incoming)? {
                if aqueduct_core::planted("events-beside-the-transaction") {
                    self.bus.publish_records(vec![record]).await.map_err(publish_failed)?;
                    continue;
                }
                transaction.stage(record);
            }
        }
        Ok(delivery.commit(transaction).await)
    }

    /// Reads a record as an event and finds its handler. The error: there is nothing to run.
    fn read<'a>(&self, record: &'a Record) -> Result<(Incoming<'a>, usize), Attempted> {
        let undecodable = Attempted::Undecodable;
        let limit = self.subscription.max_record_bytes;
        // Before it is looked into; its headers are counted on the way.
        if record.value().is_some_and(|value| value.len() > limit) {
            return Err(undecodable(DecodeError::TooLarge { size: record.size(), limit }));
        }
        let incoming =
            Incoming::read(record, self.routing.default_type(record.topic())).map_err(undecodable)?;
        let size = incoming.size();
        if size > limit {
            return Err(undecodable(DecodeError::TooLarge { size, limit }));
        }
        let (name, version) = incoming.event_type();
        let (route, info) = match self.routing.target(name) {
            Some(Target::Handle(route, info)) => (*route, info),
            Some(Target::Ignore) => return Err(Attempted::Ended),
            None => {
                return Err(undecodable(DecodeError::UnknownType { name: name.to_owned(), version }));
            }
        };
        let event = info.event;
        if let (Some(key), None) = (info.key, record.key()) {
            return Err(undecodable(DecodeError::MissingKey { event, key }));
        }
        if incoming.payload.is_none() {
            return Err(undecodable(DecodeError::NoValue { event }));
        }
        Ok((incoming, route))
    }

    /// The route of a record, where it has one.
    pub(crate) fn route_of(&self, record: &Record) -> Option<usize> {
        self.read(record).ok().map(|(_, route)| route)
    }

    /// Whether a route's attempts are tasks of their own.
    pub(crate) fn blocks(&self, route: usize) -> bool {
        self.routes.get(route).is_some_and(|route| route.blocks.load(Ordering::Relaxed))
    }

    pub(crate) fn succeeded(&self, route: usize) {
        if let Some(route) = self.routes.get(route) {
            route.health.succeeded();
        }
    }

    /// A poll of this route's handler took so long.
    pub(crate) fn took(&self, route: usize, took: Duration) {
        let Some(state) = self.routes.get(route) else { return };
        let polls = state.polls.fetch_add(1, Ordering::Relaxed);
        if took < BLOCKED {
            return;
        }
        let strikes = {
            let mut strikes = state.strikes.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, last) = *strikes;
            let count = if polls - last.min(polls) <= STRIKES_WITHIN { count + 1 } else { 1 };
            *strikes = (count, polls);
            count
        };
        if strikes >= STRIKES && !state.blocks.swap(true, Ordering::Relaxed) {
            let handler = self.routing.route(route).map(|route| route.name());
            tracing::warn!(
                subscription = self.subscription.name,
                handler,
                ?took,
                "a handler blocked its thread; each of its attempts is a task of its own from now on"
            );
        }
    }

    /// Runs the handler, in a span where the trace is recorded.
    async fn call(
        &self,
        handler: &dyn Route,
        route: usize,
        context: Context<'_, ()>,
        begun: &mut Option<Started>,
    ) -> Result<Vec<Draft>, Attempted> {
        let span = context.incoming.sampled().then(|| {
            let (envelope, position) = (context.incoming.envelope(), context.position());
            tracing::info_span!(
                "handle",
                subscription = self.subscription.name,
                event = envelope.name,
                id = %envelope.id,
                position = %position.partition,
                offset = position.offset,
                traceparent = envelope.trace.map(tracing::field::display)
            )
        });
        if begun.is_none() {
            let started = begun.insert(Started { route, slot: handler.slot() });
            started.slot.as_mut().start(context).map_err(refused)?;
        }
        let Some(started) = begun else { return Ok(Vec::new()) };
        let running = Measured { shared: self, route, slot: started.slot.as_mut() };
        let result = match span {
            None => running.await,
            Some(span) => running.instrument(span).await,
        };
        result.map(|drafts| self.kept(drafts)).map_err(Attempted::Failed)
    }

    /// The records of what a handler returned, under ids derived from the delivery.
    ///
    /// A record that the log would not take is refused here, before it is staged: no attempt can succeed, and in the
    /// outbox it would hold up all behind it.
    fn consequences(&self, drafts: Vec<Draft>, cause: &Incoming<'_>) -> Result<Vec<NewRecord>, Attempted> {
        let (scope, cause) = (&self.subscription.name, cause.envelope());
        let environment = self.bus.environment();
        let records = drafts.into_iter().enumerate().map(|(index, draft)| {
            draft.caused_by(&cause, scope, index, environment).into_record(self.bus.source(), environment)
        });
        let mut records: Vec<_> = records.collect();
        if let Some(Replaying { returned: Returned::Redirected(topic), .. }) = &self.replay {
            for record in &mut records {
                (record.topic, record.partition) = (topic.clone(), None);
            }
        }
        match self.bus.check_sizes(&records) {
            Ok(()) => Ok(records),
            Err((_, error)) => Err(Attempted::Failed(aqueduct_core::Terminal::new(error).into())),
        }
    }

    /// Marks a dead letter's position in the database, so that it is not delivered again after a restart.
    pub(crate) async fn mark_ended(&self, assigned: &Assigned, place: Place) -> Attempted {
        let Some((effects, claim)) = self.effects.as_ref().zip(assigned.claim) else {
            return Attempted::Ended;
        };
        let error = match effects.begin(claim, place, None).await {
            Ok(Begin::Fenced) => return Attempted::Fenced,
            Ok(Begin::Ended) => return Attempted::Ended,
            Ok(Begin::New(transaction)) => match transaction.commit().await {
                Ok(()) => return Attempted::Ended,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        Attempted::Outage(format!("the dead letter's position cannot be marked: {error}"))
    }
}

/// A handler, polled under the clock.
struct Measured<'a> {
    shared: &'a Shared,
    route: usize,
    slot: Pin<&'a mut dyn aqueduct_core::handler::Slot>,
}

impl Future for Measured<'_> {
    type Output = Result<Vec<Draft>, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let began = Instant::now();
        let polled = self.slot.as_mut().poll(cx);
        self.shared.took(self.route, began.elapsed());
        polled
    }
}

/// A delivery's transaction.
struct Delivery<'a> {
    effects: &'a Arc<dyn Effects>,
    claim: Claim,
    place: Place,
    mark: EventMark,
}

impl Delivery<'_> {
    async fn begin(&self) -> Result<Result<Box<dyn Transaction>, Attempted>, Attempted> {
        match self.effects.begin(self.claim, self.place, Some(self.mark)).await {
            Ok(Begin::New(transaction)) => Ok(Ok(transaction)),
            Ok(Begin::Ended) => Ok(Err(Attempted::Ended)),
            Ok(Begin::Fenced) => Ok(Err(Attempted::Fenced)),
            Err(error) => Err(Attempted::Outage(error.to_string())),
        }
    }

    async fn commit(&self, transaction: Box<dyn Transaction>) -> Attempted {
        match transaction.commit().await {
            Ok(()) => Attempted::Ended,
            Err(CommitError::Refused(error)) => Attempted::Failed(error),
            Err(CommitError::Unknown(_)) if aqueduct_core::planted("unknown-commit-taken-as-done") => {
                Attempted::Ended
            }
            Err(CommitError::Unknown(error)) => {
                match self.effects.ended(self.claim, self.place, Some(self.mark)).await {
                    Ok(true) => Attempted::Ended,
                    Ok(false) => Attempted::Outage(error.to_string()),
                    Err(second) => Attempted::Outage(format!("{error}; then {second}")),
                }
            }
            Err(error) => Attempted::Outage(error.to_string()),
        }
    }
}

fn refused(error: ArgsError) -> Attempted {
    match error {
        ArgsError::Decode(error) => Attempted::Undecodable(error),
        ArgsError::Extract(error) => Attempted::Failed(error),
    }
}

/// The log's trouble is an outage; an event that can never be stored is the handler's failure.
fn publish_failed(error: PublishError) -> Attempted {
    let kind = match &error {
        PublishError::Log { source, .. } | PublishError::Batch { source, .. } => Some(source.kind()),
        PublishError::Encode(_) => None,
    };
    match kind {
        None | Some(LogErrorKind::RecordTooLarge | LogErrorKind::Configuration) => {
            Attempted::Failed(aqueduct_core::Terminal::new(error).into())
        }
        Some(_) => Attempted::Outage(error.to_string()),
    }
}
