//! Quiet never means stuck (DESIGN P10): partitions that make no progress although there is something to do are found
//! and explained, and a client that gives nothing although the log has records is declared dead.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Offset, PartitionId},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    delivery::Shared,
    owned::Owned,
    status::{PartitionStatus, Stall, StallKind},
};

/// Without progress for so long, a partition stalls. With the looks between it is seen within 30 s.
const STALLED: Duration = Duration::from_secs(20);

/// How often partitions are looked at, and how often the log is asked for its ends.
const LOOK: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(5);

/// What has not answered by then is silent.
const ANSWER: Duration = Duration::from_secs(10);

/// The ends of the topics, or why the log did not say.
pub(crate) type Ends = Result<Vec<(TopicName, Vec<Offset>)>, LogError>;

/// Since when each partition stands where it stands.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    looked: Option<Instant>,
    asked: Option<Instant>,
    asking: JoinSet<Ends>,
    watches: BTreeMap<PartitionId, Watch>,
    /// Since when the log does not say its ends, and why.
    silent: Option<(Instant, String)>,
    /// Why the last client died, until this one has shown that it lives.
    suspect: Option<String>,
}

#[derive(Debug)]
struct Watch {
    generation: i64,
    settled: (Offset, Instant),
    ended: (u64, Instant),
    /// When it had begun, or when it was first seen.
    begun: Instant,
    /// Where the stored settled offset stands, and since when all waits for it: more would be more to repeat than a window.
    stored: (Offset, Instant),
    /// Where the reader stands, and since when the log has more.
    behind: Option<(Offset, Instant)>,
}

impl Monitor {
    pub(crate) fn new(suspect: Option<String>) -> Self {
        Self { suspect, ..Self::default() }
    }

    /// Whether the client has yet to show that it lives.
    pub(crate) fn suspects(&self) -> bool {
        self.suspect.is_some() || self.silent.is_some()
    }

    /// The log's answer to the question under way. Dropping the future loses nothing.
    pub(crate) async fn ends(&mut self) -> Ends {
        match self.asking.join_next().await {
            Some(Ok(ends)) => ends,
            Some(Err(error)) => {
                Err(LogError::with_source(LogErrorKind::Unreachable, "asking for the ends of topics", error))
            }
            None => std::future::pending().await,
        }
    }

    /// Looks at the partitions, about once a second, and begins to ask the log for its ends.
    pub(crate) fn look(&mut self, shared: &Arc<Shared>, partitions: &BTreeMap<PartitionId, Owned>) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked < LOOK) {
            return;
        }
        self.looked = Some(now);
        self.watches.retain(|id, _| partitions.contains_key(id));
        {
            let mut status = shared.board.lock();
            let clock = shared.bus.environment().now();
            for (id, partition) in &mut status.partitions {
                let Some(owned) = partitions.get(id) else { continue };
                let watch = self.watch(id, owned, partition, now);
                let stall = watch.and_then(|watch| watch.judge(partition, now));
                let stall = stall.or_else(|| self.outage_of(owned, now));
                let told = partition.stall.as_ref().map(|stall| stall.kind);
                let found = stall.as_ref().map(|(kind, ..)| *kind);
                if told != found
                    && let Some((kind, since, reason)) = &stall
                {
                    tracing::warn!(partition = %id, ?kind, since = ?(now - *since), reason, "no progress");
                }
                partition.stall = stall.map(|(kind, since, reason)| Stall {
                    kind,
                    since: clock.saturating_sub(now - since),
                    reason,
                });
            }
        }
        if let Some((since, reason)) = &self.silent
            && partitions.is_empty()
            && now - *since >= STALLED
        {
            // Nothing is its own by now, or nothing ever was: who knows what it would be given.
            shared.board.lock().client = Some(format!("the log does not answer: {reason}"));
        }
        if self.asking.is_empty() && self.asked.is_none_or(|asked| now - asked >= ASK) {
            self.asked = Some(now);
            self.asking.spawn(ask(Arc::clone(shared)));
        }
    }

    fn watch(
        &mut self,
        id: &PartitionId,
        owned: &Owned,
        partition: &PartitionStatus,
        now: Instant,
    ) -> Option<&Watch> {
        let [done, stored] =
            [&owned.progress.ended, &owned.progress.stored].map(|offset| offset.load(Ordering::Relaxed));
        let fresh = || Watch {
            generation: owned.generation(),
            settled: (partition.settled, now),
            begun: now,
            ended: (partition.ended, now),
            stored: (stored, now),
            behind: None,
        };
        let watch = self.watches.entry(id.clone()).or_insert_with(fresh);
        if watch.generation != owned.generation() {
            *watch = fresh();
        }
        if watch.settled.0 != partition.settled {
            watch.settled = (partition.settled, now);
        }
        if owned.progress.begun.load(Ordering::Relaxed) {
            watch.begun = now;
        }
        // With nothing open there is nothing to end.
        if watch.ended.0 != partition.ended || partition.in_flight == 0 {
            watch.ended = (partition.ended, now);
        }
        if partition.in_flight == 0 {
            watch.settled.1 = now;
        }
        let reads = owned.progress.hungry.load(Ordering::Relaxed);
        if watch.stored.0 != stored || stored >= done || partition.in_flight > 0 || reads {
            watch.stored = (stored, now);
        }
        Some(watch)
    }

    /// The log does not answer, and the partition has nothing left to handle.
    fn outage_of(&self, owned: &Owned, now: Instant) -> Option<(StallKind, Instant, String)> {
        let (since, reason) = self.silent.as_ref()?;
        let stalled = now - *since >= STALLED && owned.progress.hungry.load(Ordering::Relaxed);
        stalled.then(|| (StallKind::Outage, *since, format!("the log does not answer: {reason}")))
    }

    /// Compares where readers stand with where the log ends.
    ///
    /// # Errors
    /// A reader has given nothing for long, although there are records: its client is dead.
    pub(crate) fn compare(
        &mut self,
        ends: Ends,
        partitions: &BTreeMap<PartitionId, Owned>,
    ) -> Result<(), LogError> {
        if aqueduct_core::planted("silent-client-not-seen") {
            return Ok(());
        }
        let now = Instant::now();
        let ends = match ends {
            Ok(ends) => ends,
            Err(error) => {
                let since = self.silent.take().map_or(self.asked.unwrap_or(now), |(since, _)| since);
                self.silent = Some((since, error.to_string()));
                return Ok(());
            }
        };
        self.silent = None;
        let mut lives = true;
        for (topic, ends) in ends {
            for (partition, end) in (0..).zip(ends) {
                let id = PartitionId { topic: topic.clone(), partition };
                let (Some(owned), Some(watch)) = (partitions.get(&id), self.watches.get_mut(&id)) else {
                    continue;
                };
                let read = owned.progress.read.load(Ordering::Relaxed);
                let reads = owned.progress.begun.load(Ordering::Relaxed)
                    && !owned.grows
                    && !owned.taking
                    && !owned.is_closed();
                lives &= !reads || read >= end || owned.progress.given.load(Ordering::Relaxed);
                let starves =
                    read < end && owned.progress.hungry.load(Ordering::Relaxed) && !owned.is_closed();
                watch.behind = match watch.behind {
                    _ if !starves => None,
                    Some((stood, since)) if stood == read => Some((stood, since)),
                    _ => Some((read, now)),
                };
                if let Some((stood, since)) = watch.behind
                    && now - since >= STALLED - ASK
                {
                    return Err(LogError::new(
                        LogErrorKind::Unreachable,
                        format!(
                            "{id} has records up to {end}, and the client has given none beyond {stood} for {:?}",
                            now - since
                        ),
                    ));
                }
            }
        }
        if lives {
            self.suspect = None;
        }
        Ok(())
    }
}

impl Watch {
    fn judge(&self, partition: &PartitionStatus, now: Instant) -> Option<(StallKind, Instant, String)> {
        if let Some(reason) = &partition.stopped {
            return Some((StallKind::Stopped, self.settled.1, reason.clone()));
        }
        if now - self.begun >= STALLED {
            let reason = partition.waiting.clone().unwrap_or_else(|| "it is not taken up yet".to_owned());
            return Some((StallKind::Outage, self.begun, reason));
        }
        if now - self.stored.1 >= STALLED {
            let (stored, since) = self.stored;
            return Some((
                StallKind::Outage,
                since,
                format!("the settled offset is not stored, and the window is full from {stored} on"),
            ));
        }
        let (settled, ended) = (now - self.settled.1 >= STALLED, now - self.ended.1 >= STALLED);
        if partition.in_flight == 0 || !settled || aqueduct_core::planted("stall-not-judged") {
            return None;
        }
        let holds = || partition.holds.clone().unwrap_or_else(|| "a delivery does not end".to_owned());
        Some(match (ended, &partition.waiting) {
            (true, Some(reason)) => (StallKind::Outage, self.ended.1, reason.clone()),
            (true, None) => (StallKind::Stuck, self.ended.1, holds()),
            (false, _) => (StallKind::Key, self.settled.1, holds()),
        })
    }
}

async fn ask(shared: Arc<Shared>) -> Ends {
    tokio::time::timeout(ANSWER, ends_of(&shared)).await.unwrap_or_else(|_| {
        let silent = format!("no answer to the question for the ends of topics within {ANSWER:?}");
        Err(LogError::new(LogErrorKind::Unreachable, silent))
    })
}

async fn ends_of(shared: &Shared) -> Ends {
    let (log, topics) = (shared.bus.log(), &shared.routing.topics);
    let mut ends = Vec::with_capacity(topics.len());
    for topic in topics {
        let mut of_topic = log.end_offsets(topic).await?;
        // What lies beyond its range is nothing to a replay.
        if let Some(replay) = &shared.replay {
            for (partition, end) in (0..).zip(&mut of_topic) {
                *end = replay.range.end(&PartitionId { topic: topic.clone(), partition }, *end);
            }
        }
        ends.push((topic.clone(), of_topic));
    }
    Ok(ends)
}
