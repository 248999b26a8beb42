//! One task per subscription: it joins the group, runs what it is given, and drains. A client of the log that died is
//! made anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    effects::Effects,
    log::{Consumer, TopicSpec},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    bus::Bus,
    delivery::{Replaying, RouteState, Shared},
    monitor::Monitor,
    parking::{self, control},
    places::Pool,
    policy::OnFailure,
    replay::{Range, Returned},
    running::Running,
    status::{Board, SubscriptionStatus},
    subscription::{Routing, Subscription, SubscriptionError, Terms},
};

/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(1);

/// So long also where a drain's time is over.
const LEAVE_LATE: Duration = Duration::from_millis(100);

/// A subscription ready to run.
pub struct Subscriber {
    subscription: Terms,
    routing: Routing,
    bus: Bus,
    effects: Option<Arc<dyn Effects>>,
    replay: Option<Replaying>,
    board: Board,
}

/// What was left when a subscription ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// Deliveries that had begun and did not end within the deadline, or whose returned events were not stored: they will
    /// come again.
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

impl Subscriber {
    /// Checks a declaration against what the app has.
    ///
    /// # Errors
    /// The declaration cannot be run.
    pub fn new<S: Send + Sync + 'static>(
        subscription: Subscription<S>,
        state: S,
        bus: Bus,
        effects: Option<Arc<dyn Effects>>,
    ) -> Result<Self, SubscriptionError> {
        let effects = effects.filter(|_| !subscription.is_exactly_once());
        let (subscription, routing) = subscription.plan(state, effects.as_ref())?;
        let board = Board::new(SubscriptionStatus {
            name: subscription.name.clone(),
            guarantee: subscription.guarantee(&routing, bus.log().capabilities(), effects.as_ref()),
            topics: routing.topics.iter().map(ToString::to_string).collect(),
            ..SubscriptionStatus::default()
        });
        Ok(Self { subscription, routing, bus, effects, replay: None, board })
    }

    /// It replays, in a range and not in a group.
    pub(crate) fn replaying(self, range: Arc<Range>, returned: Returned) -> Self {
        let what = match &returned {
            Returned::Muted => "dropped".to_owned(),
            Returned::Redirected(topic) => format!("published in {topic}"),
            Returned::Emitted => "published under ids of the replay".to_owned(),
        };
        let Terms { name, retry, .. } = &self.subscription;
        self.board.lock().guarantee = format!(
            "{name}: a replay, at least once, ordered by key, returned events are {what}, a record that fails {} times ends it",
            retry.limit()
        );
        Self { replay: Some(Replaying { range, returned }), ..self }
    }

    /// A handler that takes a transaction, if there is one.
    pub(crate) fn transactional(&self) -> Option<&'static str> {
        let mut routes = (0..self.routing.len()).filter_map(|index| self.routing.route(index));
        routes.find_map(|route| route.database().map(|_| route.name()))
    }

    pub(crate) fn topics(&self) -> &[TopicName] {
        &self.routing.topics
    }

    pub(crate) fn board(&self) -> Board {
        self.board.clone()
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
        // The log was reached before: what it does not answer now, it answers later.
        let retry = self.subscription.retry;
        let mut failures = 0;
        while let Err(error) = self.make_topics().await {
            if error.kind() != LogErrorKind::Unreachable {
                return Err(fail(error));
            }
            failures += 1;
            let delay = retry.delay(failures, self.bus.environment().random_u64());
            tracing::warn!(subscription = name, %error, ?delay, "cannot look for its topics yet");
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Drained { unfinished: 0 }),
                () = tokio::time::sleep(delay) => {}
            }
        }
        let shared = Arc::new(Shared {
            places: Pool::new(self.subscription.concurrency),
            routes: (0..self.routing.len()).map(|_| RouteState::default()).collect(),
            subscription: self.subscription,
            routing: self.routing,
            bus: self.bus,
            effects: self.effects,
            replay: self.replay,
            board: self.board,
        });
        let releases = Arc::new(Mutex::new(control::Open::default()));
        let (told, mut asked) = mpsc::unbounded_channel();
        let _follower = if shared.subscription.on_failure == OnFailure::Park {
            let control = parking::control_topic(&name).map_err(|error| fail(error.into()))?;
            let log = Arc::clone(shared.bus.log());
            let follow = control::follow(log, control, Arc::clone(&releases), told);
            Some(AbortOnDropHandle::new(tokio::spawn(follow)))
        } else {
            None
        };
        let joined = match shared.join().await {
            Err(error) if error.kind() == LogErrorKind::Unreachable => {
                tracing::warn!(subscription = name, %error, "cannot join the group yet");
                join_again(&shared, &stop).await.map_err(fail)?
            }
            joined => Some(joined.map_err(fail)?),
        };
        let Some(mut consumer) = joined else { return Ok(Drained { unfinished: 0 }) };
        // In the group now; where others have all partitions there will be no assignment.
        shared.board.lock().joined = true;
        let mut unfinished = 0;
        // Why the last client died, until the next has shown that it lives.
        let mut suspect: Option<String> = None;
        loop {
            let mut running = Running {
                shared: Arc::clone(&shared),
                consumer,
                partitions: BTreeMap::new(),
                tasks: JoinSet::new(),
                takes: JoinSet::new(),
                rounds: JoinSet::new(),
                hurry: Arc::new(Notify::new()),
                again: false,
                over: None,
                late: None,
                monitor: Monitor::new(suspect.take()),
                releases: Arc::clone(&releases),
                unfinished,
            };
            let result = running.run(&stop, &mut asked).await;
            let dead = match result {
                Err(error) if shared.goes_on_after(&error) && !stop.is_cancelled() => error,
                result => {
                    running.drain(deadline).await;
                    // Leaving is a courtesy: a client that hangs must not hold the drain up.
                    let left =
                        running.over.map_or(LEAVE, |over| over.saturating_duration_since(Instant::now()));
                    let limit = LEAVE.min(left.max(LEAVE_LATE));
                    let closed = tokio::time::timeout(limit, running.consumer.close()).await;
                    let closed = closed.unwrap_or_else(|_| {
                        tracing::warn!(subscription = name, "the log did not let it leave its group in time");
                        Ok(())
                    });
                    match result.and(closed) {
                        // Nobody needs a client any more.
                        Err(error) if can_be_made_anew(&error) => {
                            tracing::warn!(subscription = name, %error, "the log's client died while it drained");
                        }
                        ended => ended.map_err(fail)?,
                    }
                    return Ok(Drained { unfinished: running.unfinished });
                }
            };
            tracing::error!(subscription = name, error = %dead, "the log's client is dead, making it anew");
            shared.board.lock().client = Some(dead.to_string());
            suspect = Some(dead.to_string());
            running.abandon().await;
            unfinished = running.unfinished;
            drop(running);
            let Some(made) = join_again(&shared, &stop).await.map_err(fail)? else {
                return Ok(Drained { unfinished });
            };
            consumer = made;
        }
    }

    async fn make_topics(&self) -> Result<(), LogError> {
        let log = self.bus.log();
        for topic in &self.routing.topics {
            log.ensure_topic(TopicSpec::new(topic.clone())).await?;
        }
        if self.subscription.on_failure == OnFailure::Park {
            for topic in &self.routing.topics {
                parking::ensure(&**log, &self.subscription.name, topic).await?;
            }
            parking::ensure_control(&**log, &self.subscription.name).await?;
        }
        Ok(())
    }
}

impl Shared {
    /// Whether the client is made anew after this: nobody looks after a replay that tries for ever.
    fn goes_on_after(&self, error: &LogError) -> bool {
        let waits = self.replay.is_none() || error.kind() == LogErrorKind::Unreachable;
        waits && can_be_made_anew(error)
    }
}

/// Whether a new client could do better: not where the log itself is over, or was set up wrongly.
pub(crate) fn can_be_made_anew(error: &LogError) -> bool {
    let over = matches!(
        error.kind(),
        LogErrorKind::Closed
            | LogErrorKind::Configuration
            | LogErrorKind::Storage
            | LogErrorKind::Format
            | LogErrorKind::Corrupt
    );
    !over && !aqueduct_core::planted("dead-client-not-made-anew")
}

/// Joins the group anew, for as long as it takes. None: stopped before.
async fn join_again(
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Option<Arc<dyn Consumer>>, LogError> {
    let mut failures = 0;
    loop {
        failures += 1;
        let delay = shared.subscription.retry.delay(failures, shared.bus.environment().random_u64());
        let joined = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            joined = async {
                tokio::time::sleep(delay).await;
                shared.join().await
            } => joined,
        };
        match joined {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(error) if can_be_made_anew(&error) => {
                tracing::warn!(subscription = shared.subscription.name, %error, "cannot join the group yet");
                shared.board.lock().client = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}
