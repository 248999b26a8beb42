//! Reads one partition. A task that waits for records is woken by the client.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, RecordBatch,
    log::{Offset, PartitionId, PartitionReader, Start},
};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::{
    batch::KafkaBatch,
    error::{closed, configuration, error, kind},
    fetcher::Fetching,
    native::{Fetched, Met},
    shared::Shared,
};

/// How often a reader that waits looks by itself, should the client not wake it.
const LOOK: Duration = Duration::from_secs(5);

/// How long to wait before reading anew what is there and was said not to be.
const RESTART: Duration = Duration::from_millis(100);

/// How long it is tried whether there is something to read behind what cannot be read. Where it is too short, the range ends
/// early, and the rest of it is told once that was passed.
const TRIAL: Duration = Duration::from_secs(10);

/// How often, where the client loses its place.
const TRIALS: usize = 20;

/// A place in a partition.
pub(crate) struct KafkaReader {
    shared: Arc<Shared>,
    partition: PartitionId,
    /// None until it is started from where the reader stands.
    fetching: Option<Fetching>,
    next: Offset,
    /// How far this partition is known to reach, for who settles in it.
    seen: Arc<AtomicI64>,
    /// What the client met behind the records that were given.
    met: Option<Met>,
    /// Why there is nothing more to read.
    over: Option<LogError>,
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KafkaReader({} at {})", self.partition, self.next)
    }
}

impl KafkaReader {
    /// Finds the place and starts to fetch from it. Waits.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        partition: &PartitionId,
        start: Start,
        seen: Arc<AtomicI64>,
    ) -> Result<Self, LogError> {
        let PartitionId { topic, partition: number } = partition;
        let count = shared.require(topic)?.spec.partitions.unwrap_or(0);
        if !(0..count).contains(number) {
            return Err(configuration(format!(
                "topic {topic} has {count} partitions, there is no partition {number}"
            )));
        }
        let next = match start {
            Start::Offset(offset) if offset < 0 => return Err(out_of_range(shared, partition, offset)),
            Start::Offset(offset) => offset,
            Start::Earliest => shared.range(topic, *number)?.0,
            Start::Latest => shared.range(topic, *number)?.1,
            Start::Time(time) => shared.at_time(topic, *number, time.as_millis())?,
        };
        let fetching = shared.fetchers.start(partition, &shared.wire(topic.as_str()), next)?;
        let (shared, partition) = (Arc::clone(shared), partition.clone());
        Ok(Self { shared, partition, fetching: Some(fetching), next, seen, met: None, over: None })
    }

    async fn next_batch(&mut self, max: usize) -> Result<Arc<dyn RecordBatch>, LogError> {
        loop {
            self.shared.check()?;
            if let Some(over) = &self.over {
                return Err(over.clone());
            }
            if self.met.is_some() {
                self.judge().await?;
            }
            if let Some(batch) = self.fetch(max).await? {
                return Ok(batch);
            }
        }
    }

    /// Waits for what the client has; none where that moves nothing.
    async fn fetch(&mut self, max: usize) -> Result<Option<Arc<dyn RecordBatch>>, LogError> {
        let Some(stream) = self.fetching.as_mut().and_then(Fetching::stream) else {
            let (partition, next) = (self.partition.clone(), self.next);
            let start = move |shared: &Arc<Shared>| {
                shared.fetchers.start(&partition, &shared.wire(partition.topic.as_str()), next)
            };
            self.fetching = Some(self.shared.waiting(start).await?);
            return Ok(None);
        };
        // Nothing is awaited between taking records off the client and giving them: a dropped read loses none.
        let Fetched { messages, end, met } = tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => return Err(closed()),
            fetched = poll_fn(|cx| stream.poll_fetch(cx, max)) => fetched,
            () = tokio::time::sleep(LOOK) => return Ok(None),
        };
        self.met = met;
        let before = self.next;
        if let Some(last) = messages.len().checked_sub(1) {
            self.next = messages.offset(last) + 1;
        }
        // Behind the last record there may be a transaction's marker, or what was rolled back.
        self.next = self.next.max(end.unwrap_or(0));
        if self.next == before {
            return Ok(None);
        }
        self.seen.fetch_max(self.next, Ordering::Relaxed);
        Ok(Some(Arc::new(KafkaBatch { partition: self.partition.clone(), messages })))
    }

    /// Whether what the client met ends the reading.
    async fn judge(&mut self) -> Result<(), LogError> {
        let Some(met) = self.met.clone() else { return Ok(()) };
        let (partition, next) = (self.partition.clone(), self.next);
        let over = match (met.code, kind(met.code)) {
            (Code::LogTruncation, _) => {
                let judged = move |shared: &Arc<Shared>| Ok(out_of_range(shared, &partition, next));
                Some(self.shared.waiting(judged).await?)
            }
            (Code::AutoOffsetReset | Code::OffsetOutOfRange, _) => {
                let judged = move |shared: &Arc<Shared>| {
                    let (first, end) = shared.range(&partition.topic, partition.partition)?;
                    let there = (first..=end).contains(&next)
                        || aqueduct_core::planted("kafka-offset-outside-not-told");
                    Ok((!there).then(|| not_in(&partition, next, first, end)))
                };
                let over = self.shared.waiting(judged).await?;
                if over.is_none() {
                    // Said of where the client read before, or by a broker that is behind.
                    self.fetching = None;
                    tokio::time::sleep(RESTART).await;
                }
                over
            }
            (_, LogErrorKind::TopicMissing) => {
                // The client may only not have heard of it yet.
                let judged = move |shared: &Arc<Shared>| shared.describe(&partition.topic);
                let found = self.shared.waiting(judged).await?;
                found
                    .is_none()
                    .then(|| error(&format!("cannot read {}", self.partition), met.code, &met.said))
            }
            // Of a codec or a format that this client does not know: a newer one may.
            (_, LogErrorKind::Corrupt | LogErrorKind::Format) => Some(self.unreadable(&met).await?),
            // The client tries again by itself.
            (_, LogErrorKind::Unreachable) => None,
            _ => Some(error(&format!("cannot read {} from {next} on", self.partition), met.code, &met.said)),
        };
        self.met = None;
        self.over.clone_from(&over);
        over.map_or(Ok(()), Err)
    }

    /// What is said of a batch that can never be read: the client tells where it begins, not where it ends.
    async fn unreadable(&mut self, met: &Met) -> Result<LogError, LogError> {
        let first = met.offset.max(self.next);
        let end = if met.alone { first + 1 } else { self.end_of(met.offset, first).await? };
        Ok(LogError::new(
            LogErrorKind::Unreadable { first, end },
            format!("{} from {first} to before {end}: {} ({:?})", self.partition, met.said, met.code),
        ))
    }

    /// The first offset behind `first` at which the client meets something else than the batch that begins at `base`.
    async fn end_of(&mut self, base: Offset, first: Offset) -> Result<Offset, LogError> {
        let partition = self.partition.clone();
        let range = move |shared: &Arc<Shared>| shared.range(&partition.topic, partition.partition);
        let (_, end) = self.shared.waiting(range).await?;
        // Dropped with this call; the reader starts anew from where it stands.
        let mut fetching = self.fetching.take();
        let (mut inside, mut step) = (first, 1);
        let mut behind = loop {
            let at = inside + step;
            if at >= end || !self.meets(base, at, &mut fetching).await? {
                break at.min(end);
            }
            (inside, step) = (at, step * 2);
        };
        while inside + 1 < behind {
            let at = inside + (behind - inside) / 2;
            if self.meets(base, at, &mut fetching).await? { inside = at } else { behind = at }
        }
        Ok(behind)
    }

    /// Whether what begins at `base` is what the client meets first from `at` on.
    async fn meets(
        &self,
        base: Offset,
        at: Offset,
        fetching: &mut Option<Fetching>,
    ) -> Result<bool, LogError> {
        for _ in 0..TRIALS {
            let (partition, used) = (self.partition.clone(), fetching.take());
            let restarted = move |shared: &Arc<Shared>| {
                let wire = shared.wire(partition.topic.as_str());
                let Some(mut used) = used else { return shared.fetchers.start(&partition, &wire, at) };
                used.restart(&wire, at)?;
                Ok(used)
            };
            let fetching = fetching.insert(self.shared.waiting(restarted).await?);
            let Some(stream) = fetching.stream() else { return Err(closed()) };
            // Behind what transactions have under way nothing comes at all.
            let first = tokio::time::timeout(TRIAL, poll_fn(|cx| stream.poll_fetch(cx, 1))).await;
            let met =
                first.ok().filter(|fetched| fetched.messages.len() == 0).and_then(|fetched| fetched.met);
            match met {
                // Of an offset that is there: behind a wrong checksum the client reads on in the middle of the batch, and takes
                // what it finds for an offset to fetch (seen with 2.12.1).
                Some(met) if matches!(met.code, Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                    tokio::time::sleep(RESTART).await;
                }
                met => return Ok(met.is_some_and(|met| met.offset == base)),
            }
        }
        Ok(false)
    }
}

impl PartitionReader for KafkaReader {
    fn position(&self) -> Offset {
        self.next
    }

    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        Box::pin(self.next_batch(max))
    }

    fn seek(&mut self, offset: Offset) {
        (self.met, self.over) = (None, None);
        (self.fetching, self.next) = (None, offset);
    }
}

/// That an offset cannot be read, with what can. Waits.
pub(crate) fn out_of_range(shared: &Shared, partition: &PartitionId, offset: Offset) -> LogError {
    match shared.range(&partition.topic, partition.partition) {
        Ok((first, end)) => not_in(partition, offset, first, end),
        Err(error) => error,
    }
}

fn not_in(partition: &PartitionId, offset: Offset, first: Offset, end: Offset) -> LogError {
    LogError::new(
        LogErrorKind::OffsetOutOfRange { first, end },
        format!("{partition} has offsets from {first} to before {end}, not {offset}"),
    )
}
