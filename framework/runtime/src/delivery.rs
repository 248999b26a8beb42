//! The attempts at one record: its transaction, its retries, its dead letter.
//!
//! A kill at any point leaves the delivery open: above the settled offset, and unmarked unless its transaction
//! committed. It is then delivered again, and a committed one is recognised by its mark.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use aqueduct_core::{
    DecodeError, Draft, Envelope, HandlerError, LogErrorKind, NewRecord, Record,
    cloudevents::Incoming,
    effects::{Begin, Claim, CommitError, Effects, Place, Transaction},
    handler::{ArgsError, Context, Outcome, Route},
    log::{Offset, PartitionId, Position, Settlement},
};
use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{
    bus::{Bus, PublishError},
    dead_letter::DeadLetters,
    policy::OnFailure,
    status::Board,
    subscription::{Routing, Subscription, Target},
};

/// What all partitions of a subscription share.
pub(crate) struct Shared<S> {
    pub(crate) subscription: Subscription<S>,
    pub(crate) routing: Routing<S>,
    pub(crate) state: S,
    pub(crate) bus: Bus,
    pub(crate) effects: Option<Arc<dyn Effects>>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) permits: Semaphore,
    pub(crate) board: Board,
}

/// The assignment that a delivery belongs to.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) partition: PartitionId,
    pub(crate) generation: i64,
    pub(crate) claim: Option<Claim>,
    /// Set once the partition drains or stops: what has not begun then does not begin.
    pub(crate) draining: AtomicBool,
    /// Deliveries that have begun and not ended.
    pub(crate) begun: AtomicUsize,
}

/// How a delivery came to an end.
#[derive(Debug)]
pub(crate) enum End {
    /// Handled, or its dead letter was acknowledged.
    Ended,
    /// The partition drains, and this delivery had not begun.
    NotBegun,
    /// The partition has a newer owner.
    Fenced,
    /// The partition must stop, for this reason; the delivery has not ended.
    Stop(String),
}

/// How one attempt went.
enum Attempted {
    Ended,
    Fenced,
    /// The handler said no, or panicked.
    Failed(HandlerError),
    /// No attempt can succeed.
    Undecodable(DecodeError),
    /// The database or the log did not answer: not the record's fault, so no attempt is counted.
    Outage(String),
}

impl<S: Send + Sync + 'static> Shared<S> {
    /// Attempts `record` until it has ended. `settled` tells the partition's settled offset.
    pub(crate) async fn deliver(
        &self,
        assigned: &Assigned,
        record: Record,
        settled: &(dyn Fn() -> Offset + Send + Sync),
    ) -> End {
        let Ok(mut permit) = self.permits.acquire().await else { return End::NotBegun };
        if assigned.draining.load(Ordering::Acquire) {
            return End::NotBegun;
        }
        // Counted until it ends, or until a drain gives it up.
        assigned.begun.fetch_add(1, Ordering::AcqRel);
        let mut attempts = 0;
        let mut outages = 0;
        loop {
            let attempt =
                AssertUnwindSafe(self.attempt(assigned, &record, attempts + 1)).catch_unwind().await;
            // While it waits, others of this subscription use its place.
            drop(permit);
            let random = self.bus.environment().random_u64();
            let (reason, delay) = match attempt.unwrap_or_else(|panic| Attempted::Failed(panicked(&*panic))) {
                Attempted::Ended => {
                    if outages > 0 {
                        self.board.partition(&assigned.partition, |partition| partition.waiting = None);
                    }
                    return End::Ended;
                }
                Attempted::Fenced => return End::Fenced,
                Attempted::Undecodable(error) => {
                    return self.fail(assigned, &record, &error.to_string(), attempts + 1, settled).await;
                }
                Attempted::Outage(reason) => {
                    outages += 1;
                    let delay = self.subscription.retry.delay(outages, random);
                    tracing::warn!(subscription = self.subscription.name, position = ?record, reason, ?delay, "waiting for an outage to end");
                    self.board.partition(&assigned.partition, |partition| partition.waiting = Some(reason));
                    tokio::time::sleep(delay).await;
                    permit = match self.permits.acquire().await {
                        Ok(permit) => permit,
                        Err(_) => return End::NotBegun,
                    };
                    continue;
                }
                Attempted::Failed(error) => {
                    attempts += 1;
                    let delay = match error.outcome() {
                        Outcome::Terminal => None,
                        Outcome::RetryAfter(delay) => Some(delay),
                        Outcome::Retry => Some(self.subscription.retry.delay(attempts, random)),
                    };
                    (error.to_string(), delay)
                }
            };
            match delay {
                Some(delay) if attempts < self.subscription.retry.limit() => {
                    tracing::warn!(subscription = self.subscription.name, position = ?record, attempts, reason, ?delay, "an attempt failed");
                    self.board.lock().retried += 1;
                    tokio::time::sleep(delay).await;
                    permit = match self.permits.acquire().await {
                        Ok(permit) => permit,
                        Err(_) => return End::NotBegun,
                    };
                }
                _ => return self.fail(assigned, &record, &reason, attempts, settled).await,
            }
        }
    }

    async fn attempt(&self, assigned: &Assigned, record: &Record, attempt: u32) -> Attempted {
        match self.try_attempt(assigned, record, attempt).await {
            Ok(attempted) | Err(attempted) => attempted,
        }
    }

    async fn try_attempt(
        &self,
        assigned: &Assigned,
        record: &Record,
        attempt: u32,
    ) -> Result<Attempted, Attempted> {
        let (size, limit) = (record.size(), self.subscription.max_record_bytes);
        if size > limit {
            return Err(Attempted::Undecodable(DecodeError::TooLarge { size, limit }));
        }
        let undecodable = Attempted::Undecodable;
        let incoming =
            Incoming::read(record, self.routing.default_type(record.topic())).map_err(undecodable)?;
        let envelope = incoming.envelope();
        let (route, info) = match self.routing.target(&envelope.name) {
            Some(Target::Handle(route, info)) => (route, info),
            Some(Target::Ignore) => return Ok(Attempted::Ended),
            None => {
                return Err(undecodable(DecodeError::UnknownType {
                    name: envelope.name,
                    version: envelope.version,
                }));
            }
        };
        let event = info.event;
        if let (Some(key), None) = (info.key, record.key()) {
            return Err(undecodable(DecodeError::MissingKey { event, key }));
        }
        let payload = incoming.payload.ok_or(undecodable(DecodeError::NoValue { event }))?;
        let position = Position { partition: assigned.partition.clone(), offset: record.offset() };
        let mut context = Context {
            state: &self.state,
            incoming: &incoming,
            payload,
            attempt,
            lease: None,
        };
        let database = self.effects.as_ref().zip(assigned.claim);
        match database {
            Some((effects, claim)) if route.database().is_some() => {
                let mut transaction = match self.begin(effects, claim, &envelope, record.offset()).await? {
                    Ok(transaction) => transaction,
                    Err(attempted) => return Ok(attempted),
                };
                context.lease = transaction.lease();
                let drafts = self.call(&**route, context, &envelope, &position).await?;
                for record in self.consequences(drafts, &envelope)? {
                    transaction.stage(record);
                }
                self.commit(effects, claim, transaction, record.offset()).await
            }
            Some((effects, claim)) => {
                let drafts = self.call(&**route, context, &envelope, &position).await?;
                let mut transaction = match self.begin(effects, claim, &envelope, record.offset()).await? {
                    Ok(transaction) => transaction,
                    Err(attempted) => return Ok(attempted),
                };
                for record in self.consequences(drafts, &envelope)? {
                    transaction.stage(record);
                }
                self.commit(effects, claim, transaction, record.offset()).await
            }
            None => {
                let drafts = self.call(&**route, context, &envelope, &position).await?;
                let records = self.consequences(drafts, &envelope)?;
                if !records.is_empty() {
                    self.bus.publish_records(records).await.map_err(publish_failed)?;
                }
                Ok(Attempted::Ended)
            }
        }
    }

    /// Runs the handler, in a span where the trace is recorded.
    async fn call(
        &self,
        route: &dyn Route<S>,
        mut context: Context<'_, S>,
        envelope: &Envelope,
        position: &Position,
    ) -> Result<Vec<Draft>, Attempted> {
        let mut slot = route.slot();
        let started = slot.as_mut().start(&mut context);
        // A lease that no extractor took goes back before the handler runs, else it would hold up its neighbours.
        drop(context);
        started.map_err(|error| match error {
            ArgsError::Decode(error) => Attempted::Undecodable(error),
            ArgsError::Extract(error) => Attempted::Failed(error),
        })?;
        let running = std::future::poll_fn(move |cx| slot.as_mut().poll(cx));
        let result = match envelope.trace.filter(|trace| trace.sampled()) {
            None => running.await,
            Some(trace) => {
                let span = tracing::info_span!(
                    "handle",
                    subscription = self.subscription.name,
                    event = envelope.name,
                    id = %envelope.id,
                    position = %position.partition,
                    offset = position.offset,
                    traceparent = %trace
                );
                running.instrument(span).await
            }
        };
        result.map_err(Attempted::Failed)
    }

    /// The records of what a handler returned, under ids derived from the delivery.
    ///
    /// A record that the log would not take is refused here, before it is staged: no attempt can succeed, and in the
    /// outbox it would hold up all behind it.
    fn consequences(&self, drafts: Vec<Draft>, cause: &Envelope) -> Result<Vec<NewRecord>, Attempted> {
        let scope = &self.subscription.name;
        let environment = self.bus.environment();
        let records = drafts.into_iter().enumerate().map(|(index, draft)| {
            draft.caused_by(cause, scope, index, environment).into_record(self.bus.source(), environment)
        });
        let records: Vec<_> = records.collect();
        match self.bus.check_sizes(&records) {
            Ok(()) => Ok(records),
            Err((_, error)) => Err(Attempted::Failed(aqueduct_core::Terminal::new(error).into())),
        }
    }

    async fn begin(
        &self,
        effects: &Arc<dyn Effects>,
        claim: Claim,
        envelope: &Envelope,
        offset: Offset,
    ) -> Result<Result<Box<dyn Transaction>, Attempted>, Attempted> {
        let mark = envelope.id.mark(&envelope.source);
        match effects.begin(claim, Place::Live(offset), Some(mark)).await {
            Ok(Begin::New(transaction)) => Ok(Ok(transaction)),
            Ok(Begin::Ended) => Ok(Err(Attempted::Ended)),
            Ok(Begin::Fenced) => Ok(Err(Attempted::Fenced)),
            Err(error) => Err(Attempted::Outage(error.to_string())),
        }
    }

    async fn commit(
        &self,
        effects: &Arc<dyn Effects>,
        claim: Claim,
        transaction: Box<dyn Transaction>,
        offset: Offset,
    ) -> Result<Attempted, Attempted> {
        match transaction.commit().await {
            Ok(()) => Ok(Attempted::Ended),
            Err(CommitError::Refused(error)) => Ok(Attempted::Failed(error)),
            Err(CommitError::Unknown(error)) => match effects.ended(claim, Place::Live(offset), None).await {
                Ok(true) => Ok(Attempted::Ended),
                Ok(false) => Ok(Attempted::Outage(error.to_string())),
                Err(second) => Ok(Attempted::Outage(format!("{error}; then {second}"))),
            },
            Err(error) => Ok(Attempted::Outage(error.to_string())),
        }
    }

    /// Follows the policy for a record that will not be handled.
    async fn fail(
        &self,
        assigned: &Assigned,
        record: &Record,
        reason: &str,
        attempts: u32,
        settled: &(dyn Fn() -> Offset + Send + Sync),
    ) -> End {
        if self.subscription.on_failure == OnFailure::Stop {
            return End::Stop(format!("{record:?} failed after {attempts} attempts: {reason}"));
        }
        let mut failures = 0;
        loop {
            let settlement = Settlement {
                partition: assigned.partition.clone(),
                generation: assigned.generation,
                offset: settled(),
                metadata: String::new(),
            };
            let error = match self.dead_letters.store(record, reason, attempts, settlement).await {
                Ok(()) => break,
                Err(error) => error,
            };
            match error.kind() {
                LogErrorKind::StaleGeneration => return End::Fenced,
                LogErrorKind::Unreachable | LogErrorKind::UnknownOutcome | LogErrorKind::Held => {}
                _ => {
                    return End::Stop(format!(
                        "the dead letter of {record:?} cannot be stored: {error} (it failed with: {reason})"
                    ));
                }
            }
            failures += 1;
            let waiting = format!("the dead letter of {record:?} cannot be stored now: {error}");
            tracing::warn!(
                subscription = self.subscription.name,
                reason = waiting,
                "waiting for an outage to end"
            );
            self.board.partition(&assigned.partition, |partition| partition.waiting = Some(waiting));
            tokio::time::sleep(self.subscription.retry.delay(failures, self.bus.environment().random_u64()))
                .await;
        }
        tracing::error!(subscription = self.subscription.name, position = ?record, attempts, reason, "dead letter");
        {
            let mut status = self.board.lock();
            status.dead_letters += 1;
            if let Some(partition) = status.partitions.get_mut(&assigned.partition) {
                partition.waiting = None;
            }
        }
        self.mark_ended(assigned, record).await
    }

    /// Marks a dead letter's position in the database, so that it is not delivered again after a restart.
    async fn mark_ended(&self, assigned: &Assigned, record: &Record) -> End {
        let Some((effects, claim)) = self.effects.as_ref().zip(assigned.claim) else { return End::Ended };
        let mut failures = 0;
        loop {
            let error = match effects.begin(claim, Place::Live(record.offset()), None).await {
                Ok(Begin::Fenced) => return End::Fenced,
                Ok(Begin::Ended) => return End::Ended,
                Ok(Begin::New(transaction)) => match transaction.commit().await {
                    Ok(()) => return End::Ended,
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            failures += 1;
            tracing::warn!(subscription = self.subscription.name, position = ?record, error, "cannot mark a dead letter yet");
            tokio::time::sleep(self.subscription.retry.delay(failures, self.bus.environment().random_u64()))
                .await;
        }
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

/// A panic is one failed attempt of its delivery, no more.
fn panicked(panic: &(dyn Any + Send)) -> HandlerError {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    HandlerError::from(format!("the handler panicked: {}", text.unwrap_or("no message")))
}
