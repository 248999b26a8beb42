//! One task per subscription: it owns the consumer, hands partitions to their tasks, settles, and drains.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    LogError,
    effects::{Claim, Effects, Scope, Taken},
    log::{Assignment, Consumer, Offset, PartitionId, Signal, Start, TopicSpec},
};
use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    dead_letter::DeadLetters,
    delivery::{Assigned, Shared},
    partition::{Closed, Partition, Wish},
    settler::{self, Due, Stored},
    status::{Board, PartitionStatus, SubscriptionStatus},
    subscription::{Routing, Subscription, SubscriptionError},
};

/// How often settled offsets are stored.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// How long a partition that is given back, or a subscription that ends, waits for its last settle.
const LAST_SETTLE: Duration = Duration::from_secs(1);

/// How long a revoked partition may drain: while it does, the member's other partitions may stand still.
const REVOKE_DEADLINE: Duration = Duration::from_secs(1);

/// A subscription ready to run.
pub struct Subscriber<S> {
    subscription: Subscription<S>,
    routing: Routing<S>,
    state: S,
    bus: Bus,
    effects: Option<Arc<dyn Effects>>,
    board: Board,
}

/// What was left when a subscription ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// Deliveries that were running and did not end within the deadline: they will come again.
    pub unfinished: usize,
}

/// A subscription ended by itself: the log gave up.
#[derive(Debug, thiserror::Error)]
#[error("subscription {subscription}: {source}")]
pub struct SubscriberError {
    /// The subscription.
    pub subscription: String,
    /// What the log said.
    pub source: LogError,
}

impl<S: Clone + Send + Sync + 'static> Subscriber<S> {
    /// Checks a declaration against what the app has.
    ///
    /// # Errors
    /// The declaration cannot be run.
    pub fn new(
        subscription: Subscription<S>,
        state: S,
        bus: Bus,
        effects: Option<Arc<dyn Effects>>,
    ) -> Result<Self, SubscriptionError> {
        let routing = subscription.plan(effects.as_ref())?;
        let board = Board::new(SubscriptionStatus {
            name: subscription.name.clone(),
            guarantee: subscription.guarantee(bus.log().capabilities(), effects.as_ref()),
            topics: routing.topics.iter().map(ToString::to_string).collect(),
            ..SubscriptionStatus::default()
        });
        Ok(Self { subscription, routing, state, bus, effects, board })
    }

    /// Tells the status, before, during and after the run.
    pub fn status(&self) -> impl Fn() -> SubscriptionStatus + Clone + Send + Sync + 'static {
        let board = self.board.clone();
        move || board.lock().clone()
    }

    /// Joins the group and handles until `stop`; then drains within `deadline`.
    ///
    /// # Errors
    /// The log or the database cannot go on.
    pub async fn run(self, stop: CancellationToken, deadline: Duration) -> Result<Drained, SubscriberError> {
        let name = self.subscription.name.clone();
        let fail = |source| SubscriberError { subscription: name.clone(), source };
        tracing::info!(guarantee = self.board.lock().guarantee, "subscription starts");
        for topic in &self.routing.topics {
            self.bus.log().ensure_topic(TopicSpec::new(topic.clone())).await.map_err(fail)?;
        }
        let consumer = self.bus.log().consumer(&name, &self.routing.topics).await.map_err(fail)?;
        let dead_letters = DeadLetters::new(
            &name,
            Arc::clone(self.bus.log()),
            Arc::clone(&consumer),
            self.bus.environment().clone(),
        );
        let shared = Arc::new(Shared {
            permits: Semaphore::new(self.subscription.concurrency),
            subscription: self.subscription,
            routing: self.routing,
            state: self.state,
            bus: self.bus,
            effects: self.effects,
            dead_letters,
            board: self.board,
        });
        // In the group now; where others have all partitions there will be no assignment.
        shared.board.lock().joined = true;
        let mut running = Running {
            shared,
            consumer,
            partitions: BTreeMap::new(),
            tasks: JoinSet::new(),
            rounds: JoinSet::new(),
            unfinished: 0,
        };
        let result = running.run(&stop).await;
        running.drain(deadline).await;
        let closed = running.consumer.close().await;
        result?;
        closed.map_err(fail)?;
        Ok(Drained { unfinished: running.unfinished })
    }
}

impl<S> std::fmt::Debug for Subscriber<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

struct Running<S> {
    shared: Arc<Shared<S>>,
    consumer: Arc<dyn Consumer>,
    partitions: BTreeMap<PartitionId, Owned>,
    tasks: JoinSet<(PartitionId, i64, Closed)>,
    /// The round of settling under way, if any. It is a task of its own, because it may wait for a handler that
    /// holds the database, and signals must not.
    rounds: JoinSet<Vec<(Due, Stored)>>,
    unfinished: usize,
}

/// A partition in this process.
struct Owned {
    generation: i64,
    claim: Option<Claim>,
    wish: watch::Sender<Wish>,
    settled: Arc<AtomicI64>,
    /// The settled offset that the log and the database have.
    stored: Offset,
    /// Whether the group waits for it.
    revoking: bool,
    /// Whether its task has ended.
    closed: bool,
    /// Whether another owner has it: nothing of it is settled any more.
    fenced: bool,
}

impl Owned {
    /// Tells the task, unless it is lost already.
    fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|wished| {
            let changes = *wished != Wish::Lost;
            if changes {
                *wished = wish;
            }
            changes
        });
    }
}

impl<S: Clone + Send + Sync + 'static> Running<S> {
    fn name(&self) -> &str {
        &self.shared.subscription.name
    }

    fn log_error(&self, source: LogError) -> SubscriberError {
        SubscriberError { subscription: self.name().to_owned(), source }
    }

    async fn run(&mut self, stop: &CancellationToken) -> Result<(), SubscriberError> {
        let mut tick = tokio::time::interval(SETTLE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let consumer = Arc::clone(&self.consumer);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                signal = consumer.signal() => {
                    let signal = signal.map_err(|source| self.log_error(source))?;
                    self.on_signal(signal, stop).await?;
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.on_closed(ended).await,
                Some(round) = self.rounds.join_next(), if !self.rounds.is_empty() => self.on_stored(round),
                _ = tick.tick(), if self.rounds.is_empty() => self.begin_round(),
            }
        }
    }

    /// Begins nothing more, lets what has begun end within `deadline`, settles.
    async fn drain(&mut self, deadline: Duration) {
        for owned in self.partitions.values() {
            owned.wish(Wish::Drain(deadline));
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.on_closed(ended).await;
        }
        self.settle_now(LAST_SETTLE).await;
    }

    async fn on_signal(&mut self, signal: Signal, stop: &CancellationToken) -> Result<(), SubscriberError> {
        match signal {
            Signal::Assigned(assignments) => self.assign(assignments, stop).await?,
            Signal::Revoking(partitions) => {
                tracing::info!(subscription = self.name(), ?partitions, "revoking");
                for partition in partitions {
                    match self.partitions.get_mut(&partition) {
                        Some(owned) if !owned.closed => {
                            owned.revoking = true;
                            owned.wish(Wish::Drain(REVOKE_DEADLINE));
                        }
                        _ => self.hand_over(partition).await,
                    }
                }
            }
            Signal::Lost(partitions) => {
                tracing::warn!(subscription = self.name(), ?partitions, "lost");
                for partition in partitions {
                    if let Some(owned) = self.partitions.remove(&partition) {
                        owned.wish(Wish::Lost);
                    }
                    self.shared.board.lock().partitions.remove(&partition);
                }
            }
            Signal::Unreadable { partition, offsets, error } => {
                let reason = format!("offsets {} to {} cannot be read: {error}", offsets.start, offsets.end);
                tracing::error!(subscription = self.name(), %partition, reason, "stopped");
                // What was read before them ends and is settled; nothing behind them is read.
                if let Some(owned) = self.partitions.get(&partition) {
                    owned.wish(Wish::Drain(REVOKE_DEADLINE));
                }
                self.shared.board.partition(&partition, |status| status.stopped = Some(reason));
            }
            other => tracing::warn!(?other, "a signal that this version does not know"),
        }
        Ok(())
    }

    async fn assign(
        &mut self,
        assignments: Vec<Assignment>,
        stop: &CancellationToken,
    ) -> Result<(), SubscriberError> {
        let mut starts = Vec::new();
        let mut taken = Vec::new();
        let mut anew = false;
        for assignment in assignments {
            let mut settled = assignment.settled;
            let (mut claim, mut ended) = (None, Vec::new());
            if let Some(effects) = self.shared.effects.clone() {
                // None: the subscription ends before the database answers.
                let Some(found) = self.take(&*effects, &assignment, stop).await else { return Ok(()) };
                // The database decides: what the log has only serves lag tools.
                settled = found.settled;
                claim = Some(found.claim);
                ended = found.ended;
            }
            anew |= settled.is_none() && self.shared.subscription.start != Start::Earliest;
            let start = settled.map_or(self.shared.subscription.start, Start::Offset);
            taken.push((assignment.clone(), claim, ended));
            starts.push((assignment, start));
        }
        let readers = self.consumer.assign(starts).await.map_err(|source| self.log_error(source))?;
        let mut tasks = Vec::new();
        for ((assignment, claim, ended), reader) in taken.into_iter().zip(readers) {
            let start = reader.position();
            let settled = Arc::new(AtomicI64::new(start));
            let (wish, wished) = watch::channel(Wish::Run);
            let (id, generation) = (assignment.partition, assignment.generation);
            let status = PartitionStatus { settled: start, in_flight: 0, stopped: None, waiting: None };
            self.shared.board.lock().partitions.insert(id.clone(), status);
            let assigned = Assigned {
                partition: id.clone(),
                generation,
                claim,
                draining: AtomicBool::new(false),
                begun: AtomicUsize::new(0),
            };
            let partition =
                Partition::new(Arc::clone(&self.shared), assigned, start, ended, Arc::clone(&settled));
            tasks.push((id.clone(), generation, partition, reader, wished));
            let (stored, revoking, closed, fenced) = (-1, false, false, false);
            let owned = Owned { generation, claim, wish, settled, stored, revoking, closed, fenced };
            if let Some(older) = self.partitions.insert(id, owned) {
                older.wish(Wish::Lost);
            }
        }
        // A start that is not the beginning is kept before the first delivery: else a kill would choose a later one,
        // and what lies between would never be handled.
        while anew && !stop.is_cancelled() {
            self.settle_now(LAST_SETTLE).await;
            anew = tasks.iter().any(|(id, ..)| {
                self.partitions.get(id).is_some_and(|owned| owned.stored < 0 && !owned.fenced)
            });
            if anew {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(SETTLE_INTERVAL) => {}
                }
            }
        }
        for (id, generation, partition, reader, wished) in tasks {
            self.tasks.spawn(async move {
                let closed = AssertUnwindSafe(partition.run(reader, wished)).catch_unwind().await;
                // Handlers are caught one by one, so this is a defect of ours, or of an error's `Display`.
                (id, generation, closed.unwrap_or_else(|_| Closed::Stopped("its task panicked".to_owned())))
            });
        }
        Ok(())
    }

    /// Takes a partition in the database, waiting for one that does not answer.
    async fn take(
        &self,
        effects: &dyn Effects,
        assignment: &Assignment,
        stop: &CancellationToken,
    ) -> Option<Taken> {
        let scope = Scope {
            subscription: self.name().to_owned(),
            topic_id: assignment.topic_id,
            partition: assignment.partition.clone(),
        };
        let mut failures = 0;
        loop {
            let error = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                taken = effects.take(&scope) => match taken {
                    Ok(taken) => return Some(taken),
                    Err(error) => error,
                },
            };
            failures += 1;
            let delay =
                self.shared.subscription.retry.delay(failures, self.shared.bus.environment().random_u64());
            tracing::warn!(subscription = self.name(), partition = %scope.partition, %error, ?delay, "cannot take the partition yet");
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    async fn on_closed(&mut self, ended: Result<(PartitionId, i64, Closed), tokio::task::JoinError>) {
        let (id, generation, closed) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(subscription = self.name(), %error, "a partition's task was aborted");
                return;
            }
        };
        let Some(owned) = self.partitions.get_mut(&id).filter(|owned| owned.generation == generation) else {
            return;
        };
        owned.closed = true;
        owned.fenced |= matches!(closed, Closed::Fenced);
        let revoking = owned.revoking;
        match closed {
            Closed::Drained { unfinished } => {
                self.unfinished += unfinished;
                if unfinished > 0 {
                    tracing::warn!(subscription = self.name(), partition = %id, unfinished, "deliveries did not end within the deadline");
                }
            }
            Closed::Fenced => {
                tracing::warn!(subscription = self.name(), partition = %id, generation, "fenced by a newer owner");
                // It stays on the board until the group says where it is: nobody here handles it.
                let reason = format!("a newer owner has it (ours was generation {generation})");
                self.shared.board.partition(&id, |status| status.stopped = Some(reason));
            }
            Closed::Stopped(reason) => {
                tracing::error!(subscription = self.name(), partition = %id, reason, "stopped");
                self.shared.board.partition(&id, |status| status.stopped = Some(reason));
            }
        }
        if revoking {
            self.hand_over(id).await;
        }
    }

    /// Settles a drained partition and gives it back.
    async fn hand_over(&mut self, id: PartitionId) {
        self.settle_now(LAST_SETTLE).await;
        self.partitions.remove(&id);
        self.shared.board.lock().partitions.remove(&id);
        self.consumer.revoked(&[id]);
    }

    /// Begins to store the settled offsets that have moved.
    fn begin_round(&mut self) {
        let round: Vec<_> = self
            .partitions
            .iter()
            .filter(|(_, owned)| !owned.fenced)
            .map(|(id, owned)| (id, owned, owned.settled.load(Ordering::Acquire)))
            .filter(|(_, owned, offset)| *offset != owned.stored)
            .map(|(id, owned, offset)| Due {
                partition: id.clone(),
                generation: owned.generation,
                claim: owned.claim,
                offset,
            })
            .collect();
        if !round.is_empty() {
            self.rounds.spawn(settler::store(self.shared.effects.clone(), Arc::clone(&self.consumer), round));
        }
    }

    fn on_stored(&mut self, round: Result<Vec<(Due, Stored)>, tokio::task::JoinError>) {
        let round = match round {
            Ok(round) => round,
            Err(error) => {
                tracing::error!(subscription = self.name(), %error, "a round of settling died, trying again");
                return;
            }
        };
        for (due, stored) in round {
            let Some(owned) =
                self.partitions.get_mut(&due.partition).filter(|owned| owned.generation == due.generation)
            else {
                continue;
            };
            match stored {
                Stored::Yes => owned.stored = due.offset,
                Stored::NotNow => {}
                Stored::Fenced => {
                    owned.fenced = true;
                    owned.wish(Wish::Lost);
                }
            }
        }
    }

    /// Settles, and waits for it; not longer than `limit`, since the database may be held by a handler for ever.
    async fn settle_now(&mut self, limit: Duration) {
        let settled = tokio::time::timeout(limit, async {
            while let Some(round) = self.rounds.join_next().await {
                self.on_stored(round);
            }
            self.begin_round();
            while let Some(round) = self.rounds.join_next().await {
                self.on_stored(round);
            }
        });
        if settled.await.is_err() {
            tracing::warn!(
                subscription = self.name(),
                ?limit,
                "settled offsets were not stored in time: what lies above the stored ones comes again"
            );
            self.rounds.abort_all();
        }
    }
}
