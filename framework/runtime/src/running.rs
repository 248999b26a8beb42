//! A subscription while it has its client: signals, settling, hand-over, drain.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_core::{
    LogError,
    log::{Assignment, Consumer, PartitionId, Signal},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    claims::{Answered, Asked},
    delivery::Shared,
    growth::Found,
    monitor::Monitor,
    owned::Owned,
    parking::control::{self, Open},
    partition::{Closed, Limits, Wish},
    progress::Progress,
    settler::{self, Due, Stored},
    subscriber::can_be_made_anew,
    sync::Ordering,
};

/// How often settled offsets are stored.
pub(super) const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// How long a partition that is given back, or a subscription that ends, waits for its last settle.
pub(super) const LAST_SETTLE: Duration = Duration::from_secs(1);

/// How soon a last settle is tried again that was not stored.
const SETTLE_AGAIN: Duration = Duration::from_millis(20);

/// What a drain keeps of its deadline for the last settle.
const DRAIN_RESERVE: Duration = Duration::from_millis(200);

/// How long a revoked partition may drain: while it does, the member's other partitions may stand still.
const REVOKE: Limits = Limits { handlers: Duration::from_secs(1), writes: LAST_SETTLE };

pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) consumer: Arc<dyn Consumer>,
    pub(crate) partitions: BTreeMap<PartitionId, Owned>,
    pub(crate) tasks: JoinSet<(PartitionId, i64, Closed)>,
    /// Partitions that are being taken up.
    pub(crate) takes: JoinSet<(Vec<Assignment>, Result<Answered, LogError>)>,
    /// The round of settling under way, if any. It is a task of its own, because it may wait for a handler that
    /// holds the database, and signals must not.
    pub(crate) rounds: JoinSet<Vec<(Due, Stored)>>,
    /// Told by partitions that have settled much since the last round.
    pub(crate) hurry: Arc<Notify>,
    /// Whether a round shall follow the one under way.
    pub(crate) again: bool,
    /// When a drain must have ended.
    pub(crate) over: Option<Instant>,
    /// When a settle that was waited for did not end in time: the next is not waited for as long.
    pub(crate) late: Option<Instant>,
    pub(crate) monitor: Monitor,
    /// Releases that operators asked for and that are not done.
    pub(crate) releases: Arc<Mutex<Open>>,
    pub(crate) unfinished: usize,
}

impl Running {
    pub(super) fn name(&self) -> &str {
        &self.shared.subscription.name
    }

    /// Handles until `stop`, or until the log's client dies.
    pub(crate) async fn run(
        &mut self,
        stop: &CancellationToken,
        asked: &mut mpsc::UnboundedReceiver<control::Asked>,
    ) -> Result<(), LogError> {
        let mut tick = tokio::time::interval(SETTLE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (consumer, hurry) = (Arc::clone(&self.consumer), Arc::clone(&self.hurry));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                signal = consumer.signal() => self.on_signal(signal?).await,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Some(grown) = self.on_closed(ended).await {
                        self.take_up(vec![grown]);
                    }
                }
                Some(taken) = self.takes.join_next(), if !self.takes.is_empty() => self.on_taken(taken)?,
                Some(round) = self.rounds.join_next(), if !self.rounds.is_empty() => {
                    self.on_stored(round);
                    if std::mem::take(&mut self.again) {
                        self.begin_round();
                    }
                }
                () = hurry.notified() => {
                    self.settle_soon();
                }
                Some(asked) = asked.recv() => {
                    // Where it is not ours, its owner has been told as well.
                    if let Some(owned) = self.partitions.get(&asked.partition) {
                        // A task that has ended handles nothing; the next owner reads of it.
                        let _ = owned.releases.send(asked);
                    }
                }
                ends = self.monitor.ends() => {
                    if let (Err(error), Some(_)) = (&ends, &self.shared.replay)
                        && !can_be_made_anew(error)
                    {
                        // No group would say that the log is over. That a topic is not known is a broker that is behind: it was
                        // there when the range was laid out.
                        return Err(error.clone());
                    }
                    self.monitor.compare(ends, &self.partitions)?;
                    if !self.monitor.suspects() {
                        self.shared.board.lock().client = None;
                    }
                }
                _ = tick.tick() => {
                    if self.rounds.is_empty() {
                        self.begin_round();
                    }
                    self.monitor.look(&self.shared, &self.partitions);
                    self.take_again();
                }
            }
        }
    }

    /// Begins nothing more, lets what has begun end within `deadline`, settles.
    pub(crate) async fn drain(&mut self, deadline: Duration) {
        // The last settle is part of it: the database may be busy.
        let over = Instant::now() + deadline;
        self.over = Some(over);
        // Nothing of them has begun.
        self.takes.abort_all();
        let reserve = LAST_SETTLE.min(deadline / 4).min(DRAIN_RESERVE);
        for owned in self.partitions.values() {
            // A half of what is kept for what was returned, and the other for what is settled after it.
            owned.wish(Wish::Drain(Limits { handlers: deadline - reserve, writes: reserve / 2 }));
        }
        while let Some(ended) = self.tasks.join_next().await {
            // What need not wait any more is not begun.
            drop(self.on_closed(ended).await);
        }
        // All that is left of the time: what is not stored comes again.
        self.settle_now(over.saturating_duration_since(Instant::now()).max(reserve / 2)).await;
    }

    /// Ends all at once: the client is dead, and with it the assignments.
    pub(crate) async fn abandon(&mut self) {
        for owned in self.partitions.values() {
            owned.wish(Wish::Lost);
        }
        self.rounds.abort_all();
        self.takes.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.partitions.clear();
        self.shared.board.lock().partitions.clear();
    }

    async fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Assigned(assignments) => self.assign(assignments),
            Signal::Revoking(partitions) => {
                tracing::info!(subscription = self.name(), ?partitions, "revoking");
                let keeps = aqueduct_core::planted("taking-not-given-back");
                for partition in partitions {
                    if aqueduct_core::planted("revoke-answered-before-drain") {
                        self.consumer.revoked(std::slice::from_ref(&partition));
                    }
                    match self.partitions.get_mut(&partition) {
                        Some(owned) if !owned.closed && (!owned.taking || keeps) => {
                            owned.revoking = true;
                            owned.wish(Wish::Drain(REVOKE));
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
            other => tracing::warn!(?other, "a signal that this version does not know"),
        }
    }

    /// Takes in that a partition's task has ended. Gives what can be taken up now.
    async fn on_closed(
        &mut self,
        ended: Result<(PartitionId, i64, Closed), tokio::task::JoinError>,
    ) -> Option<Asked> {
        let (id, generation, closed) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(subscription = self.name(), %error, "a partition's task was aborted");
                return None;
            }
        };
        let owned = self.partitions.get_mut(&id).filter(|owned| owned.generation() == generation)?;
        owned.closed = true;
        owned.fenced |= matches!(closed, Closed::Fenced);
        let revoking = owned.revoking;
        let mut grown = None;
        match closed {
            Closed::Grown if revoking => {}
            Closed::Grown => {
                let found = owned.found.clone().map(|found| Found { grown: true, ..found });
                grown = Some(Asked::new(owned, found, None));
                owned.progress = Arc::new(Progress::new(0, false, &self.hurry));
                owned.grows = false;
                owned.closed = false;
                owned.taking = true;
            }
            Closed::Drained { unfinished } => {
                self.unfinished += unfinished;
                if unfinished > 0 {
                    tracing::warn!(subscription = self.name(), partition = %id, unfinished, "deliveries did not end within the deadline; they come again");
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
        grown
    }

    /// How long a partition that is given back may wait for its last settle: not beyond a drain's deadline, and not each
    /// of many for a database that was just too slow.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let limit = match self.late {
            Some(late) if now - late < LAST_SETTLE * 2 => DRAIN_RESERVE / 4,
            _ => LAST_SETTLE,
        };
        self.over.map_or(limit, |over| limit.min(over.saturating_duration_since(now)))
    }

    /// Settles a drained partition and gives it back.
    async fn hand_over(&mut self, id: PartitionId) {
        if !aqueduct_core::planted("hand-over-without-settle") {
            self.settle_now(self.patience()).await;
        }
        self.partitions.remove(&id);
        self.shared.board.lock().partitions.remove(&id);
        self.consumer.revoked(&[id]);
    }

    /// Begins a round, now or when the one under way has ended.
    pub(super) fn settle_soon(&mut self) {
        if self.rounds.is_empty() {
            self.begin_round();
        } else {
            self.again = true;
        }
    }

    /// Begins to store the settled offsets that have moved.
    fn begin_round(&mut self) {
        let round: Vec<_> = self
            .partitions
            .iter()
            .filter(|(_, owned)| owned.settled_by_rounds())
            .filter_map(|(id, owned)| {
                let offset = owned.progress.settled.load(Ordering::Acquire);
                let noted = owned.found.as_ref()?.noted;
                let begun = owned.progress.begun.load(Ordering::Acquire);
                let (partition, generation, claim) = (id.clone(), owned.generation(), owned.claim);
                (offset != owned.stored).then_some(Due { partition, generation, claim, offset, noted, begun })
            })
            .collect();
        if !round.is_empty() {
            self.rounds.spawn(settler::store(self.shared.effects.clone(), Arc::clone(&self.consumer), round));
        }
    }

    fn on_stored(&mut self, round: Result<Vec<(Due, Stored)>, tokio::task::JoinError>) {
        let round = match round {
            Ok(round) => round,
            // Its time was over, which was said then.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(subscription = self.name(), %error, "a round of settling died, trying again");
                return;
            }
        };
        let settles_itself = self.shared.subscription.settles_itself();
        for (due, stored) in round {
            // Not of an earlier claim: a partition may have been taken again meanwhile, or be about to be.
            let owned = self.partitions.get_mut(&due.partition).filter(|owned| !owned.taking);
            let Some(owned) =
                owned.filter(|owned| (owned.generation(), owned.claim) == (due.generation, due.claim))
            else {
                continue;
            };
            match stored {
                Stored::Yes => {
                    owned.stored = due.offset;
                    owned.settles = settles_itself;
                    if !due.begun {
                        self.shared.board.partition(&due.partition, |status| status.waiting = None);
                        owned.progress.begin();
                    }
                    owned.progress.stored.store(due.offset, Ordering::Release);
                    owned.progress.moved.notify_one();
                }
                Stored::NotNow(reason) => {
                    if !due.begun {
                        let waiting = format!("where it begins is not stored yet: {reason}");
                        self.shared.board.partition(&due.partition, |status| status.waiting = Some(waiting));
                    }
                }
                // Its reader knows better what is wrong with it.
                Stored::Refused => {
                    owned.refused = true;
                    owned.progress.begin();
                }
                Stored::Fenced => {
                    owned.fenced = true;
                    owned.wish(Wish::Lost);
                }
            }
        }
    }

    /// Settles, and waits for it; not longer than `limit`, since the database may be held by a handler for ever. What has
    /// ended here is tried again until then: there is no next round for it, and its next owner would repeat it.
    pub(super) async fn settle_now(&mut self, limit: Duration) {
        let settled = tokio::time::timeout(limit, async {
            loop {
                while let Some(round) = self.rounds.join_next().await {
                    self.on_stored(round);
                }
                self.begin_round();
                while let Some(round) = self.rounds.join_next().await {
                    self.on_stored(round);
                }
                if !self.partitions.values().any(Owned::is_owing)
                    || aqueduct_core::planted("last-settle-once")
                {
                    break;
                }
                tokio::time::sleep(SETTLE_AGAIN).await;
            }
        });
        if settled.await.is_err() {
            self.late = Some(Instant::now());
            tracing::warn!(
                subscription = self.name(),
                ?limit,
                "settled offsets were not stored in time: what lies above the stored ones comes again"
            );
            self.rounds.abort_all();
        }
    }
}
