//! Handlers that sleep, by key, against lanes written by hand: the same reader, the same decoder, the same sleep, and
//! no settling.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use aqueduct::{
    Event, Handled, Record, Subscription, TopicName,
    core::{
        RecordBatch,
        log::{CommitLog, Offset, PartitionId, PartitionReader, Start},
    },
    system_environment,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::task::JoinSet;

use crate::{
    consume::{FINISH, Filled},
    events::{Keys, Sold},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    raw::PARTITIONS,
};

/// How long the handlers sleep.
pub const WORK: Duration = Duration::from_millis(1);
/// Records asked of a reader at once, and records in lanes at most per partition: what a subscription has by default.
const READ: usize = 512;
const WINDOW: usize = 4_096;

/// The handler that sleeps.
///
/// # Errors
/// Never.
pub async fn sleeps(event: Sold) -> Handled {
    std::hint::black_box(&event);
    tokio::time::sleep(WORK).await;
    FINISH.one();
    Ok(())
}

/// The row of sleeping handlers.
#[derive(Debug)]
pub struct Sleeping {
    name: &'static str,
    concurrency: usize,
    dir: PathBuf,
    count: u64,
    bar: f64,
    filled: Option<Filled>,
}

impl Sleeping {
    /// Handles `count` events in each run.
    #[must_use]
    pub fn new(name: &'static str, concurrency: usize, count: u64, bar: f64, dir: &Path) -> Self {
        Self { name, concurrency, dir: dir.join(name), count, bar, filled: None }
    }

    fn filled(&mut self) -> anyhow::Result<&mut Filled> {
        let filled = match self.filled.take() {
            Some(filled) => filled,
            None => Filled::new(&self.dir, self.count, Keys::Uniform, &system_environment())?,
        };
        Ok(self.filled.insert(filled))
    }
}

impl Row for Sleeping {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        format!(
            "a handler that sleeps 1 ms, by key, 10,000 keys, concurrency {}, settling safely; against lanes written \
             by hand (HashMap of queues, FuturesUnordered, one task per processor) with the same reader, decoder and \
             sleep, settling nothing",
            self.concurrency
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        Some((By::Rate, self.bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let concurrency = self.concurrency;
        let filled = self.filled()?;
        let group = filled.group();
        filled.run(&group, Subscription::builder(&group).on(sleeps).concurrency(concurrency))
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let concurrency = self.concurrency;
        let filled = self.filled()?;
        filled.runtime.block_on(by_hand(Arc::clone(&filled.log) as _, concurrency, filled.count))
    }

    fn remark(&self) -> String {
        format!("bound {} events/s by concurrency and sleep alone", self.concurrency * 1_000)
    }
}

/// Lanes by hand: all partitions, shared out evenly among one task per processor.
///
/// # Errors
/// The log failed, or not all events were handled.
pub async fn by_hand(log: Arc<dyn CommitLog>, concurrency: usize, count: u64) -> anyhow::Result<Cost> {
    let topic = TopicName::new(Sold::INFO.topic)?;
    let stopwatch = Stopwatch::start();
    let ends = log.end_offsets(&topic).await?;
    let tasks = std::thread::available_parallelism()?.get();
    let mut shares: Vec<Vec<(Box<dyn PartitionReader>, Offset)>> = Vec::new();
    shares.resize_with(tasks, Vec::new);
    for (partition, end) in (0..PARTITIONS).zip(ends) {
        let id = PartitionId { topic: topic.clone(), partition };
        let reader = log.cursor(&id, Start::Earliest).await?;
        if let Some(share) = shares.get_mut(usize::try_from(partition)? % tasks) {
            share.push((reader, end));
        }
    }
    let mut running = JoinSet::new();
    for share in shares {
        running.spawn(lanes(share, concurrency / tasks));
    }
    let mut handled = 0;
    while let Some(ended) = running.join_next().await {
        handled += ended??;
    }
    let cost = stopwatch.stop(count);
    ensure!(handled == count, "lanes by hand handled {handled} of {count} events");
    Ok(cost)
}

type Batches = FuturesUnordered<aqueduct::core::BoxFuture<'static, anyhow::Result<Read>>>;

struct Read {
    partition: usize,
    reader: Box<dyn PartitionReader>,
    batch: Arc<dyn RecordBatch>,
}

/// Reads on, unless the partition is at its end.
fn read_on(batches: &Batches, partition: usize, mut reader: Box<dyn PartitionReader>, end: Offset) {
    if reader.position() < end {
        batches.push(Box::pin(async move {
            let batch = reader.read(READ).await?;
            Ok(Read { partition, reader, batch })
        }));
    }
}

async fn work(partition: usize, record: Record) -> anyhow::Result<(usize, Record)> {
    let event: Sold = serde_json::from_slice(record.value().unwrap_or_default())?;
    std::hint::black_box(&event);
    tokio::time::sleep(WORK).await;
    Ok((partition, record))
}

async fn lanes(share: Vec<(Box<dyn PartitionReader>, Offset)>, concurrency: usize) -> anyhow::Result<u64> {
    let batches = Batches::new();
    let ends: Vec<_> = share.iter().map(|(_, end)| *end).collect();
    let mut held = vec![0_usize; ends.len()];
    // Readers of partitions whose window is full.
    let mut waiting: Vec<Option<Box<dyn PartitionReader>>> = Vec::new();
    waiting.resize_with(ends.len(), || None);
    for (partition, (reader, end)) in share.into_iter().enumerate() {
        read_on(&batches, partition, reader, end);
    }
    let mut batches = batches;
    let mut running = FuturesUnordered::new();
    // A key is in the map while it has records; only the first of them runs or is ready.
    let mut lanes: HashMap<Box<[u8]>, VecDeque<(usize, Record)>> = HashMap::new();
    let mut ready: VecDeque<(usize, Record)> = VecDeque::new();
    let mut handled = 0;
    loop {
        while running.len() < concurrency
            && let Some((partition, record)) = ready.pop_front()
        {
            running.push(work(partition, record));
        }
        tokio::select! {
            biased;
            Some(ended) = running.next(), if !running.is_empty() => {
                let (partition, record) = ended?;
                handled += 1;
                held[partition] -= 1;
                if held[partition] + READ <= WINDOW && let Some(reader) = waiting[partition].take() {
                    read_on(&batches, partition, reader, ends[partition]);
                }
                let key = record.key().unwrap_or_default();
                match lanes.get_mut(key).and_then(VecDeque::pop_front) {
                    Some(next) => ready.push_back(next),
                    None => drop(lanes.remove(key)),
                }
            }
            Some(read) = batches.next(), if !batches.is_empty() => {
                let Read { partition, reader, batch } = read?;
                held[partition] += batch.len();
                for record in Record::all(&batch) {
                    match lanes.entry(record.key().unwrap_or_default().into()) {
                        Entry::Occupied(mut lane) => lane.get_mut().push_back((partition, record)),
                        Entry::Vacant(lane) => {
                            lane.insert(VecDeque::new());
                            ready.push_back((partition, record));
                        }
                    }
                }
                if held[partition] + READ <= WINDOW {
                    read_on(&batches, partition, reader, ends[partition]);
                } else {
                    waiting[partition] = Some(reader);
                }
            }
            else => return Ok(handled),
        }
    }
}
