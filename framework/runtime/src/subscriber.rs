//! One task per subscription: it owns the consumer, hands partitions to their tasks, settles, and drains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind,
    effects::{Claim, Effects, EffectsError, Scope},
    log::{Assignment, Consumer, Offset, PartitionId, Settlement, Signal, Start, TopicSpec},
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    dead_letter::DeadLetters,
    delivery::{Assigned, SETTLE_INTERVAL, Shared},
    partition::{Closed, Partition, Wish},
    status::{Board, PartitionStatus, SubscriptionStatus},
    subscription::{Routing, Subscription, SubscriptionError},
};

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

/// Why a subscription ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberError {
    /// The log gave up.
    #[error("subscription {subscription}: {source}")]
    Log {
        /// The subscription.
        subscription: String,
        /// What the log said.
        source: LogError,
    },
    /// The database did not give a partition.
    #[error("subscription {subscription}: {source}")]
    Effects {
        /// The subscription.
        subscription: String,
        /// What the database said.
        source: EffectsError,
    },
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
        let fail = |source| SubscriberError::Log { subscription: name.clone(), source };
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
        let mut running =
            Running { shared, consumer, partitions: BTreeMap::new(), tasks: JoinSet::new(), unfinished: 0 };
        let result = running.run(&stop, deadline).await;
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
}

impl<S: Clone + Send + Sync + 'static> Running<S> {
    fn name(&self) -> &str {
        &self.shared.subscription.name
    }

    fn log_error(&self, source: LogError) -> SubscriberError {
        SubscriberError::Log { subscription: self.name().to_owned(), source }
    }

    async fn run(&mut self, stop: &CancellationToken, deadline: Duration) -> Result<(), SubscriberError> {
        let mut tick = tokio::time::interval(SETTLE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let consumer = Arc::clone(&self.consumer);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                signal = consumer.signal() => {
                    let signal = signal.map_err(|source| self.log_error(source))?;
                    self.on_signal(signal).await?;
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.on_closed(ended).await,
                _ = tick.tick() => self.settle().await,
            }
        }
        for owned in self.partitions.values() {
            owned.wish.send_replace(Wish::Drain(deadline));
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.on_closed(ended).await;
        }
        self.settle().await;
        Ok(())
    }

    async fn on_signal(&mut self, signal: Signal) -> Result<(), SubscriberError> {
        match signal {
            Signal::Assigned(assignments) => self.assign(assignments).await?,
            Signal::Revoking(partitions) => {
                tracing::info!(subscription = self.name(), ?partitions, "revoking");
                for partition in partitions {
                    match self.partitions.get_mut(&partition) {
                        Some(owned) if !owned.closed => {
                            owned.revoking = true;
                            owned.wish.send_replace(Wish::Drain(REVOKE_DEADLINE));
                        }
                        _ => self.hand_over(partition).await,
                    }
                }
            }
            Signal::Lost(partitions) => {
                tracing::warn!(subscription = self.name(), ?partitions, "lost");
                for partition in partitions {
                    if let Some(owned) = self.partitions.remove(&partition) {
                        owned.wish.send_replace(Wish::Lost);
                    }
                    self.shared.board.lock().partitions.remove(&partition);
                }
            }
            Signal::Unreadable { partition, offsets, error } => {
                let reason = format!("offsets {} to {} cannot be read: {error}", offsets.start, offsets.end);
                tracing::error!(subscription = self.name(), %partition, reason, "stopped");
                // What was read before them ends and is settled; nothing behind them is read.
                if let Some(owned) = self.partitions.get(&partition) {
                    owned.wish.send_replace(Wish::Drain(REVOKE_DEADLINE));
                }
                self.shared.board.partition(&partition, |status| status.stopped = Some(reason));
            }
            other => tracing::warn!(?other, "a signal that this version does not know"),
        }
        Ok(())
    }

    async fn assign(&mut self, assignments: Vec<Assignment>) -> Result<(), SubscriberError> {
        let mut starts = Vec::new();
        let mut taken = Vec::new();
        for assignment in assignments {
            let mut settled = assignment.settled;
            let (mut claim, mut ended) = (None, Vec::new());
            if let Some(effects) = &self.shared.effects {
                let scope = Scope {
                    subscription: self.name().to_owned(),
                    topic_id: assignment.topic_id,
                    partition: assignment.partition.clone(),
                };
                let found = effects.take(&scope).await.map_err(|source| SubscriberError::Effects {
                    subscription: self.name().to_owned(),
                    source,
                })?;
                // The database decides: what the log has only serves lag tools.
                settled = found.settled;
                claim = Some(found.claim);
                ended = found.ended;
            }
            let start = settled.map_or(self.shared.subscription.start, Start::Offset);
            taken.push((assignment.clone(), claim, ended));
            starts.push((assignment, start));
        }
        let readers = self.consumer.assign(starts).await.map_err(|source| self.log_error(source))?;
        for ((assignment, claim, ended), reader) in taken.into_iter().zip(readers) {
            let start = reader.position();
            let settled = Arc::new(AtomicI64::new(start));
            let (wish, wished) = watch::channel(Wish::Run);
            let (id, generation) = (assignment.partition, assignment.generation);
            let status = PartitionStatus { settled: start, in_flight: 0, stopped: None, waiting: None };
            {
                let mut board = self.shared.board.lock();
                board.joined = true;
                board.partitions.insert(id.clone(), status);
            }
            let assigned = Assigned { partition: id.clone(), generation, claim };
            let partition =
                Partition::new(Arc::clone(&self.shared), assigned, start, ended, Arc::clone(&settled));
            let key = id.clone();
            self.tasks.spawn(async move { (key, generation, partition.run(reader, wished).await) });
            let owned =
                Owned { generation, claim, wish, settled, stored: -1, revoking: false, closed: false };
            if let Some(older) = self.partitions.insert(id, owned) {
                older.wish.send_replace(Wish::Lost);
            }
        }
        self.shared.board.lock().joined = true;
        Ok(())
    }

    async fn on_closed(&mut self, ended: Result<(PartitionId, i64, Closed), tokio::task::JoinError>) {
        let (id, generation, closed) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Handlers are caught one by one, so this is a defect of ours; the partition stays unsettled.
                tracing::error!(subscription = self.name(), %error, "a partition's task died");
                return;
            }
        };
        let Some(owned) = self.partitions.get_mut(&id).filter(|owned| owned.generation == generation) else {
            return;
        };
        owned.closed = true;
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
                self.partitions.remove(&id);
                self.shared.board.lock().partitions.remove(&id);
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
        self.settle().await;
        self.partitions.remove(&id);
        self.shared.board.lock().partitions.remove(&id);
        self.consumer.revoked(&[id]);
    }

    /// Stores settled offsets that have moved: in the database first, where they decide, then in the log.
    async fn settle(&mut self) {
        let mut settlements = Vec::new();
        let mut fenced = Vec::new();
        for (id, owned) in &mut self.partitions {
            let offset = owned.settled.load(Ordering::Acquire);
            if offset == owned.stored {
                continue;
            }
            if let Some((effects, claim)) = self.shared.effects.as_ref().zip(owned.claim) {
                match effects.raise(claim, offset).await {
                    Ok(true) => {}
                    Ok(false) => {
                        fenced.push(id.clone());
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(partition = %id, %error, "cannot store the settled offset, trying again");
                        continue;
                    }
                }
            }
            let metadata = String::new();
            settlements.push(Settlement {
                partition: id.clone(),
                generation: owned.generation,
                offset,
                metadata,
            });
        }
        if !settlements.is_empty() {
            let results = self.consumer.settle(settlements.clone()).await;
            for (settlement, result) in settlements.into_iter().zip(results) {
                let id = settlement.partition;
                match result {
                    Ok(()) => {
                        if let Some(owned) = self.partitions.get_mut(&id) {
                            owned.stored = settlement.offset;
                        }
                    }
                    Err(error) if error.kind() == LogErrorKind::StaleGeneration => fenced.push(id),
                    Err(error) => tracing::warn!(partition = %id, %error, "cannot settle, trying again"),
                }
            }
        }
        for id in fenced {
            if let Some(owned) = self.partitions.get(&id) {
                owned.wish.send_replace(Wish::Lost);
            }
        }
    }
}
