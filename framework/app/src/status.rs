//! What the app says of itself.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    effects::{Effects, EffectsError, OutboxStatus},
    log::{CommitLog, Offset},
};
use aqueduct_runtime::{SubscriptionStatus, dead_letter_topic};

pub(crate) type Tell = Box<dyn Fn() -> SubscriptionStatus + Send + Sync>;

/// The status of an app: a handle that can be asked before, during and after the run.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    name: String,
    subscriptions: Vec<Tell>,
    effects: Option<Arc<dyn Effects>>,
    log: Arc<dyn CommitLog>,
    draining: AtomicBool,
    relay: std::sync::Mutex<Option<String>>,
}

/// How far a subscription is behind the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The consumer group.
    pub subscription: String,
    /// Records between its settled offsets and the ends of its topics.
    pub records: Offset,
}

/// Whether the app can do its work, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not, or what it waits for.
    pub reasons: Vec<String>,
}

impl Status {
    pub(crate) fn new(
        name: &str,
        subscriptions: Vec<Tell>,
        effects: Option<Arc<dyn Effects>>,
        log: Arc<dyn CommitLog>,
    ) -> Self {
        let (draining, relay) = (AtomicBool::new(false), std::sync::Mutex::default());
        Self(Arc::new(Inner { name: name.to_owned(), subscriptions, effects, log, draining, relay }))
    }

    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(crate) fn relay(&self, trouble: Option<String>) {
        *self.0.relay.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = trouble;
    }

    /// The app's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Each subscription.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionStatus> {
        self.0.subscriptions.iter().map(|tell| tell()).collect()
    }

    /// Whether the app can do its work.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut ready = true;
        if self.0.draining.load(Ordering::Acquire) {
            ready = false;
            reasons.push("draining".to_owned());
        }
        for subscription in self.subscriptions() {
            ready &= subscription.ready();
            if !subscription.joined {
                reasons.push(format!("{}: has not joined its group yet", subscription.name));
            }
            if let Some(reason) = &subscription.client {
                reasons.push(format!("{}: the log's client is made anew: {reason}", subscription.name));
            }
            for (id, partition) in subscription.partitions {
                if let Some(reason) = &partition.stopped {
                    reasons.push(format!("{}: {id} stopped: {reason}", subscription.name));
                }
                if let Some(reason) = &partition.waiting {
                    reasons.push(format!("{}: {id} waits: {reason}", subscription.name));
                }
                // What stopped, or waits, has said so above.
                if let Some(stall) = &partition.stall
                    && partition.stopped.is_none()
                    && partition.waiting.as_ref() != Some(&stall.reason)
                {
                    reasons.push(format!("{}: {id} makes no progress: {}", subscription.name, stall.reason));
                }
            }
        }
        if let Some(trouble) = &*self.0.relay.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            ready = false;
            reasons.push(format!("outbox {}: {trouble}", self.0.name));
        }
        Readiness { ready, reasons }
    }

    /// How far each subscription is behind the ends of its topics.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn lag(&self) -> Result<Vec<Lag>, LogError> {
        let mut lags = Vec::new();
        for subscription in self.subscriptions() {
            let mut records = 0;
            for topic in &subscription.topics {
                let topic = TopicName::new(topic)?;
                let ends = self.end_offsets(&topic).await?;
                if ends.is_empty() {
                    continue;
                }
                let stored = self.0.log.settled_offsets(&subscription.name, &topic).await?;
                for (number, end) in (0..).zip(ends) {
                    let id = aqueduct_core::log::PartitionId { topic: topic.clone(), partition: number };
                    let ours = subscription.partitions.get(&id).map(|partition| partition.settled);
                    let stored = usize::try_from(number).ok().and_then(|index| stored.get(index)?.as_ref());
                    let settled = ours.or(stored.map(|stored| stored.offset)).unwrap_or(0);
                    records += (end - settled).max(0);
                }
            }
            lags.push(Lag { subscription: subscription.name, records });
        }
        Ok(lags)
    }

    /// What waits in the outbox; none where the app has no database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn outbox(&self) -> Result<Option<OutboxStatus>, EffectsError> {
        match &self.0.effects {
            None => Ok(None),
            Some(effects) => effects.outbox().await.map(Some),
        }
    }

    /// How many dead letters of this app's subscriptions are in the log, of earlier runs too.
    ///
    /// # Errors
    /// The log does not answer.
    pub async fn dead_letters(&self) -> Result<Offset, LogError> {
        let mut letters = 0;
        for subscription in self.subscriptions() {
            for topic in &subscription.topics {
                let dead = dead_letter_topic(&subscription.name, &TopicName::new(topic)?)?;
                if self.0.log.describe_topic(&dead).await?.is_some() {
                    letters += self.0.log.end_offsets(&dead).await?.iter().sum::<Offset>();
                }
            }
        }
        Ok(letters)
    }

    /// The sum of the end offsets of all topics read.
    async fn ends(&self) -> Result<Offset, LogError> {
        let mut sum = 0;
        for subscription in self.subscriptions() {
            for topic in &subscription.topics {
                sum += self.end_offsets(&TopicName::new(topic)?).await?.iter().sum::<Offset>();
            }
        }
        Ok(sum)
    }

    /// Empty where the topic is not there yet: subscriptions make theirs when they start.
    async fn end_offsets(&self, topic: &TopicName) -> Result<Vec<Offset>, LogError> {
        match self.0.log.end_offsets(topic).await {
            Err(error) if error.kind() == LogErrorKind::TopicMissing => Ok(Vec::new()),
            ends => ends,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// Whether these apps, which may feed each other, have nothing left to do: all have joined, no lag, empty outboxes,
/// and no record came in between the first look and the last.
///
/// # Errors
/// The log or a database does not answer.
pub async fn caught_up(apps: &[Status]) -> Result<bool, aqueduct_core::BoxError> {
    // Until a group is joined only the log can say how far it is, and it is the database that decides.
    if apps.iter().flat_map(Status::subscriptions).any(|subscription| !subscription.joined) {
        return Ok(false);
    }
    let mut before = 0;
    for app in apps {
        // Before it has joined, a subscription's settled offsets may be older than what its database knows.
        if app.subscriptions().iter().any(|subscription| !subscription.joined) {
            return Ok(false);
        }
        before += app.ends().await?;
    }
    // A record is settled after what it caused was staged, so lag comes before outboxes.
    for app in apps {
        if app.lag().await?.iter().any(|lag| lag.records > 0) {
            return Ok(false);
        }
    }
    for app in apps {
        if app.outbox().await?.is_some_and(|outbox| outbox.waiting > 0) {
            return Ok(false);
        }
    }
    let mut after = 0;
    for app in apps {
        after += app.ends().await?;
    }
    Ok(before == after)
}
