//! History, delivered again (DESIGN P7): by cursors of its own and under its own name, without a group.
//!
//! It is a subscription whose partitions no group gives: all of them are its own, from where to where was decided before it
//! began (`range`). They are read by `cursors`, handled as by any subscription, and how far it is may be kept in the log
//! (`checkpoint`). Nothing of it touches another group.
//!
//! A kill leaves what was kept last: what lies above comes again. Without a checkpoint it begins anew.

mod checkpoint;
mod cursors;
mod range;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, ops,
    sync::Arc,
    time::Duration,
};

use aqueduct_core::{
    Event, EventSet, Handler, IntoEvents, LogError, Timestamp, TopicName,
    effects::Effects,
    handler::Args,
    log::{Offset, PartitionId, Start, TopicSpec},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    policy::{OnFailure, Retry},
    status::Board,
    subscriber::{Subscriber, SubscriberError},
    subscription::{Subscription, SubscriptionError},
};

pub(crate) use cursors::Cursors;
pub(crate) use range::Range;

/// How often it is looked whether a replay is over.
const LOOK: Duration = Duration::from_millis(50);

/// How long what runs may take to end where another record has ended the replay.
const DEADLINE: Duration = Duration::from_secs(5);

/// History, delivered again to handlers: a name, a range, and what becomes of what handlers return.
///
/// Records of one key keep their order within a partition, and what fails is tried again; a record that fails for good ends the replay, and
/// nothing is passed over. No consumer group is joined and none is moved. Handlers see that an event is replayed in
/// [`Delivery::replayed`](aqueduct_core::Delivery::replayed).
///
/// What handlers return is dropped unless [`Replay::emit`] or [`Replay::redirect`] says otherwise. What they do by themselves,
/// such as a call to another service, is theirs to leave out.
pub struct Replay<S> {
    subscription: Subscription<S>,
    from: Start,
    until: Until,
    returned: Returned,
    rate: Option<u32>,
    checkpoint: bool,
    excepted: BTreeSet<(PartitionId, Offset)>,
    effects: Option<Arc<dyn Effects>>,
}

/// Where a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Where each partition ended when the replay began.
    End,
    /// At the first record not older than this, or there.
    Time(Timestamp),
}

/// What becomes of what handlers return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It is dropped.
    Muted,
    /// It is published in this topic, instead of its own.
    Redirected(TopicName),
    /// It is published, under ids of the replay.
    Emitted,
}

/// What was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Deliveries that ended, of ignored events too.
    pub ended: u64,
    /// The offsets of each partition that were replayed by this run.
    pub ranges: BTreeMap<PartitionId, ops::Range<Offset>>,
}

/// A replay that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It cannot be run as it was declared.
    #[error(transparent)]
    Declaration(#[from] SubscriptionError),
    /// What a handler does in its transaction cannot be dropped.
    #[error(
        "handler {handler} of replay {replay} takes `Tx`, and its effects cannot be muted: say `.emit()` if they shall be repeated under the replay's name"
    )]
    Transaction {
        /// The replay.
        replay: String,
        /// The handler's name.
        handler: &'static str,
    },
    /// How far it is lies in its database.
    #[error("replay {replay} keeps how far it is in its database: remove `.checkpoint()`")]
    TwoCheckpoints {
        /// The replay.
        replay: String,
    },
    /// The log is older than what was kept of the replay.
    #[error(
        "replay {replay} had come to {kept} in {partition}, which ends at {end}: the log went back, begin another replay"
    )]
    WentBack {
        /// The replay.
        replay: String,
        /// The partition.
        partition: PartitionId,
        /// The offset that was kept.
        kept: Offset,
        /// The end of the partition.
        end: Offset,
    },
    /// Its name is a group's, of which nothing may be moved or repeated.
    #[error("replay {replay} has the name of a consumer group of topic {topic}: give it a name of its own")]
    NameTaken {
        /// The replay.
        replay: String,
        /// The topic.
        topic: TopicName,
    },
    /// There is no such topic.
    #[error("replay {replay}: there is no topic {topic}")]
    NoTopic {
        /// The replay.
        replay: String,
        /// The topic.
        topic: TopicName,
    },
    /// What was kept of it is of another topic of the same name.
    #[error(
        "replay {replay}: topic {topic} was deleted and made anew since its checkpoint: begin another replay"
    )]
    MadeAnew {
        /// The replay.
        replay: String,
        /// The topic.
        topic: TopicName,
    },
    /// A record ended it: what lies before it in its partition was handled, and it was not.
    #[error("replay {replay} stopped in {partition}: {reason}")]
    Stopped {
        /// The replay.
        replay: String,
        /// The partition.
        partition: PartitionId,
        /// Why.
        reason: String,
    },
    /// The log did not answer, or cannot go on.
    #[error("replay {replay}: {source}")]
    Log {
        /// The replay.
        replay: String,
        /// What the log said.
        source: LogError,
    },
}

impl<S: Send + Sync + 'static> Replay<S> {
    /// A replay of all that the topics of its handlers hold when it begins: 64 handlers at once, five attempts, what they return
    /// is dropped, and nothing is kept of how far it is.
    #[must_use]
    pub fn builder(name: &str) -> Self {
        let subscription = Subscription::builder(name).then(OnFailure::Stop).hold_at_most(Duration::ZERO);
        Self {
            subscription,
            from: Start::Earliest,
            until: Until::End,
            returned: Returned::Muted,
            rate: None,
            checkpoint: false,
            excepted: BTreeSet::new(),
            effects: None,
        }
    }

    /// As [`Subscription::on`].
    #[must_use]
    pub fn on<H, T>(self, handler: H) -> Self
    where
        H: Handler<T>,
        T: Args<S>,
        H::Output: IntoEvents,
    {
        Self { subscription: self.subscription.on(handler), ..self }
    }

    /// As [`Subscription::ignore`].
    #[must_use]
    pub fn ignore<E: EventSet>(self) -> Self {
        Self { subscription: self.subscription.ignore::<E>(), ..self }
    }

    /// As [`Subscription::topic_default`].
    #[must_use]
    pub fn topic_default<E: Event>(self) -> Self {
        Self { subscription: self.subscription.topic_default::<E>(), ..self }
    }

    /// How many handlers run at once.
    #[must_use]
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self { subscription: self.subscription.concurrency(concurrency), ..self }
    }

    /// How often a failed delivery is attempted; then it ends the replay.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { subscription: self.subscription.retry(retry), ..self }
    }

    /// The largest record that is decoded, in bytes; larger ones end the replay.
    #[must_use]
    pub fn max_record_bytes(self, max_record_bytes: usize) -> Self {
        Self { subscription: self.subscription.max_record_bytes(max_record_bytes), ..self }
    }

    /// Passes over the record at this offset, such as one that ended an earlier run.
    #[must_use]
    pub fn except(mut self, partition: PartitionId, offset: Offset) -> Self {
        self.excepted.insert((partition, offset));
        self
    }

    /// Where it begins, in each partition. Where a checkpoint was kept it goes on from there.
    #[must_use]
    pub fn from(self, from: Start) -> Self {
        Self { from, ..self }
    }

    /// Where it ends.
    #[must_use]
    pub fn until(self, until: Until) -> Self {
        Self { until, ..self }
    }

    /// How many records it reads in a second at most, over all partitions.
    #[must_use]
    pub fn rate(self, per_second: u32) -> Self {
        Self { rate: Some(per_second), ..self }
    }

    /// Keeps how far it is in the log, in the topic `<name>.replay`: a run that was ended goes on from there, and one after the
    /// end replays what has come since. Not for handlers that build something in memory, which need all of it each time.
    #[must_use]
    pub fn checkpoint(self) -> Self {
        Self { checkpoint: true, ..self }
    }

    /// Publishes what handlers return, under ids that are derived from the replay's name: what a live group returned for the
    /// same event has another id, unless the handler gives it one. With a database it is staged there, and published by the
    /// app of that database.
    #[must_use]
    pub fn emit(self) -> Self {
        Self { returned: Returned::Emitted, ..self }
    }

    /// Publishes what handlers return in this topic instead of its own.
    #[must_use]
    pub fn redirect(self, topic: TopicName) -> Self {
        Self { returned: Returned::Redirected(topic), ..self }
    }

    /// The database of handlers that take `Tx`. Their effects are done again, once under the replay's name, whatever live groups
    /// have done: so it needs [`Replay::emit`], and tables of its own. How far it is lies there too.
    ///
    /// A service that has lost its database needs no replay: its subscriptions begin again where the database says, which is the
    /// beginning.
    #[must_use]
    pub fn database(self, database: &(impl Effects + Clone)) -> Self {
        Self { effects: Some(Arc::new(database.clone())), ..self }
    }

    /// Replays, and returns when all of the range has ended. Dropping the future ends it at once.
    ///
    /// # Errors
    /// It cannot be run, a record failed for good, or the log cannot go on.
    pub async fn run(self, bus: &Bus, state: S) -> Result<Replayed, ReplayError> {
        let Self { subscription, from, until, returned, rate, checkpoint, excepted, effects } = self;
        let replay = subscription.name().to_owned();
        if rate == Some(0) {
            return Err(SubscriptionError::Zero { subscription: replay, setting: "rate" }.into());
        }
        if checkpoint && effects.is_some() {
            return Err(ReplayError::TwoCheckpoints { replay });
        }
        let subscriber = Subscriber::new(subscription, state, bus.clone(), effects)?;
        let failed = |source| ReplayError::Log { replay: replay.clone(), source };
        if returned != Returned::Emitted
            && let Some(handler) = subscriber.transactional()
        {
            return Err(ReplayError::Transaction { replay, handler });
        }
        if let Returned::Redirected(topic) = &returned {
            bus.log().ensure_topic(TopicSpec::new(topic.clone())).await.map_err(failed)?;
        }
        let plan = range::Plan { name: &replay, from, until, rate, checkpoint, excepted };
        let range = Arc::new(plan.lay_out(bus, subscriber.topics()).await?);
        let (stop, board) = (CancellationToken::new(), subscriber.board());
        let run = subscriber.replaying(Arc::clone(&range), returned).run(stop.clone(), DEADLINE);
        tokio::pin!(run);
        let gave_up = |SubscriberError { source, .. }| ReplayError::Log { replay: replay.clone(), source };
        let outcome = tokio::select! {
            biased;
            ended = &mut run => return Err(ended.map_or_else(gave_up, |_| failed(range::ended_early()))),
            outcome = watched(&board, &range) => outcome,
        };
        stop.cancel();
        let drained = run.await;
        match outcome {
            Ok(()) => {}
            Err(Ended::Stopped(partition, reason)) => {
                return Err(ReplayError::Stopped { replay, partition, reason });
            }
            Err(Ended::Refused(source)) => return Err(failed(source)),
        }
        drained.map_err(gave_up)?;
        if !range.is_kept() {
            return Err(failed(range::not_kept()));
        }
        let replayed = Replayed { ended: board.lock().ended, ranges: range.ranges() };
        tracing::info!(replay, ended = replayed.ended, "a replay has come to its end");
        Ok(replayed)
    }
}

/// Why a replay ends before its range does.
enum Ended {
    Stopped(PartitionId, String),
    /// How far it is cannot be kept.
    Refused(LogError),
}

/// Waits until all of the range has ended, or nothing more can end.
async fn watched(board: &Board, range: &Range) -> Result<(), Ended> {
    loop {
        if let Some(refused) = range.refused() {
            return Err(Ended::Refused(refused));
        }
        {
            let status = board.lock();
            let stopped = status.partitions.iter().find_map(|(id, partition)| {
                partition.stopped.as_ref().map(|reason| (id.clone(), reason.clone()))
            });
            if let Some(stopped) = stopped {
                return Err(Ended::Stopped(stopped.0, stopped.1));
            }
            if range.is_over(|id| status.partitions.get(id).map(|partition| partition.settled)) {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl<S> fmt::Debug for Replay<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("subscription", &self.subscription)
            .field("from", &self.from)
            .field("until", &self.until)
            .field("returned", &self.returned)
            .finish_non_exhaustive()
    }
}
