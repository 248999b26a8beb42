//! From where to where a replay reads each partition, and how far it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, ops,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Assignment, Offset, PartitionId, PartitionReader, Settled, Start},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ReplayError, Until, checkpoint::Checkpoint};
use crate::{bus::Bus, noted::Noted};

/// What the caller asked for.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) from: Start,
    pub(super) until: Until,
    pub(super) rate: Option<u32>,
    pub(super) checkpoint: bool,
    pub(super) excepted: BTreeSet<(PartitionId, Offset)>,
}

/// All partitions of a replay.
pub(crate) struct Range {
    places: Mutex<BTreeMap<PartitionId, Place>>,
    pub(super) pace: Option<Pace>,
    pub(super) checkpoint: Option<Checkpoint>,
    excepted: BTreeSet<(PartitionId, Offset)>,
    refused: Mutex<Option<LogError>>,
}

/// Of one partition.
struct Place {
    topic_id: Uuid,
    /// How many partitions its topic has.
    partitions: i32,
    from: Offset,
    settled: Offset,
    until: Offset,
    /// Where the log ended.
    end: Offset,
    /// It waits until it may read on.
    paced: bool,
    /// It was taken in a database.
    confirmed: bool,
    /// What stands at its beginning, until it is asked for.
    reader: Option<Box<dyn PartitionReader>>,
    opened: bool,
}

/// What is to be read of a partition.
pub(super) struct Part {
    pub(super) from: Offset,
    pub(super) until: Offset,
    pub(super) reader: Option<Box<dyn PartitionReader>>,
}

impl Plan<'_> {
    /// Finds out where each partition begins and ends, before anything is handled.
    pub(super) async fn lay_out(self, bus: &Bus, topics: &[TopicName]) -> Result<Range, ReplayError> {
        let Self { name, from, until, rate, checkpoint, excepted } = self;
        let replay = || name.to_owned();
        let failed = |source| ReplayError::Log { replay: replay(), source };
        let log = &**bus.log();
        let (checkpoint, kept) = if checkpoint {
            let (checkpoint, kept) = Checkpoint::open(name, bus).await.map_err(failed)?;
            (Some(checkpoint), kept)
        } else {
            (None, BTreeMap::new())
        };
        let mut places = BTreeMap::new();
        for topic in topics {
            let Some(info) = log.describe_topic(topic).await.map_err(failed)? else {
                return Err(ReplayError::NoTopic { replay: replay(), topic: topic.clone() });
            };
            let settled = log.settled_offsets(name, topic).await.map_err(failed)?;
            if settled.iter().any(Option::is_some) {
                return Err(ReplayError::NameTaken { replay: replay(), topic: topic.clone() });
            }
            let ends = log.end_offsets(topic).await.map_err(failed)?;
            let partitions = i32::try_from(ends.len()).unwrap_or(i32::MAX);
            for (partition, end) in (0..).zip(ends) {
                let id = PartitionId { topic: topic.clone(), partition };
                let from = match kept.get(&id) {
                    Some((topic_id, _)) if *topic_id != info.id => {
                        return Err(ReplayError::MadeAnew { replay: replay(), topic: topic.clone() });
                    }
                    Some((_, kept)) if *kept > end => {
                        return Err(ReplayError::WentBack {
                            replay: replay(),
                            partition: id,
                            kept: *kept,
                            end,
                        });
                    }
                    Some((_, kept)) => Start::Offset(*kept),
                    None => from,
                };
                let until = match until {
                    Until::End => end,
                    Until::Time(time) => {
                        let there = log.cursor(&id, Start::Time(time)).await.map_err(failed)?;
                        end.min(there.position())
                    }
                };
                let reader = log.cursor(&id, from).await.map_err(failed)?;
                let from = reader.position();
                let place = Place {
                    topic_id: info.id,
                    partitions,
                    from,
                    settled: from,
                    until,
                    end,
                    paced: false,
                    confirmed: false,
                    reader: (from < until).then_some(reader),
                    opened: false,
                };
                places.insert(id, place);
            }
        }
        let (places, refused) = (Mutex::new(places), Mutex::default());
        Ok(Range { places, pace: rate.map(Pace::new), checkpoint, excepted, refused })
    }
}

impl Range {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Place>> {
        // No code of ours panics while holding it.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, for who handles it.
    pub(super) fn assignments(&self) -> Vec<Assignment> {
        let places = self.lock();
        let each = places.iter().map(|(partition, place)| {
            let Place { topic_id, partitions, settled: offset, .. } = *place;
            let metadata = Noted { topic_id, partitions, batch: None }.to_string();
            let settled = Some(Settled { offset, metadata });
            Assignment { partition: partition.clone(), topic_id, generation: 1, settled }
        });
        each.collect()
    }

    /// What is to be read of a partition: from `start` on, or from where it begins.
    pub(super) fn part(&self, id: &PartitionId, start: Option<Offset>) -> Result<Part, LogError> {
        let mut places = self.lock();
        let place = places.get_mut(id).ok_or_else(ended_early)?;
        let from = start.unwrap_or(place.from);
        if from > place.end && from > place.settled {
            let kind = LogErrorKind::OffsetOutOfRange { first: place.from, end: place.end };
            let message = format!("its database stands at {from} of {id}, which ends at {}", place.end);
            return Err(LogError::new(kind, message));
        }
        place.settled = place.settled.max(from);
        if !place.opened {
            // A database may know of an earlier run.
            (place.from, place.opened) = (from, true);
        }
        Ok(Part { from, until: place.until, reader: place.reader.take() })
    }

    /// The topic of a partition, as it was when the replay began.
    pub(super) fn topic_id(&self, id: &PartitionId) -> Option<Uuid> {
        self.lock().get(id).map(|place| place.topic_id)
    }

    /// So far all has ended.
    pub(super) fn settle(&self, id: &PartitionId, offset: Offset) {
        if let Some(place) = self.lock().get_mut(id) {
            place.settled = place.settled.max(offset);
        }
    }

    /// Whether all of it has ended and was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().values().all(|place| place.settled >= place.until)
    }

    /// Offsets that are passed over.
    pub(crate) fn excepted(&self, id: &PartitionId) -> Vec<Offset> {
        let each = self.excepted.iter().filter(|(partition, _)| partition == id);
        each.map(|(_, offset)| *offset)
            .inspect(|offset| tracing::warn!(partition = %id, offset, "passed over"))
            .collect()
    }

    /// How far it is cannot be kept: that ends it.
    pub(super) fn refuse(&self, error: LogError) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn refused(&self) -> Option<LogError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a partition that was taken in a database may go on: once. Taken a second time, another run has it.
    pub(super) fn confirm(&self, id: &PartitionId) -> bool {
        self.lock().get_mut(id).is_some_and(|place| !std::mem::replace(&mut place.confirmed, true))
    }

    /// A partition begins, or ends, to wait until it may read on.
    pub(super) fn pace(&self, id: &PartitionId, waits: bool) {
        if let Some(place) = self.lock().get_mut(id) {
            place.paced = waits;
        }
    }

    /// Whether all of it has ended, as `settled` has it.
    pub(super) fn is_over(&self, settled: impl Fn(&PartitionId) -> Option<Offset>) -> bool {
        self.lock().iter().all(|(id, place)| settled(id).is_some_and(|settled| settled >= place.until))
    }

    /// Where a partition that ends at `end` in the log ends for the replay now: one that may not read on lags behind nothing.
    pub(crate) fn end(&self, id: &PartitionId, end: Offset) -> Offset {
        self.lock().get(id).map_or(end, |place| if place.paced { 0 } else { end.min(place.until) })
    }

    pub(super) fn ranges(&self) -> BTreeMap<PartitionId, ops::Range<Offset>> {
        let range = |place: &Place| place.from..place.until.max(place.from);
        self.lock().iter().map(|(id, place)| (id.clone(), range(place))).collect()
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ranges()).finish()
    }
}

/// How fast it reads, over all partitions.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u32,
    /// When the next record may be read.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { per_second, next: Mutex::new(None) }
    }

    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long so many records take.
    fn share(&self, records: usize) -> Duration {
        Duration::from_secs(1) * u32::try_from(records).unwrap_or(u32::MAX) / self.per_second
    }

    /// Waits for its turn. Gives how many records may be read in it: what a tenth of a second allows.
    pub(super) async fn turn(&self, max: usize) -> usize {
        let tenth = usize::try_from(self.per_second / 10).unwrap_or(usize::MAX).clamp(1, max.max(1));
        loop {
            let wait = {
                let (mut next, now) = (self.next(), Instant::now());
                match *next {
                    Some(at) if at > now => at,
                    _ => {
                        *next = Some(now + self.share(tenth));
                        return tenth;
                    }
                }
            };
            tokio::time::sleep_until(wait).await;
        }
    }

    /// Of what its turn allowed, so many were not read.
    pub(super) fn give_back(&self, records: usize) {
        let mut next = self.next();
        *next = next.map(|next| next - self.share(records));
    }
}

/// All of it has ended, and a run that follows repeats some of it.
pub(super) fn not_kept() -> LogError {
    LogError::new(LogErrorKind::Unreachable, "all of it has ended, and how far it is could not be kept")
}

/// Nobody asked it to end.
pub(super) fn ended_early() -> LogError {
    LogError::new(LogErrorKind::Closed, "it was ended before its range was")
}
