//! Reads one partition: waits at its end without polling.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aqueduct_core::{
    BoxFuture, LogError, RecordBatch,
    log::{Offset, PartitionId, PartitionReader, Start},
};
use tokio::sync::watch;

use crate::{
    batch::EmbeddedBatch,
    error::closed,
    options::configuration,
    reading::{self, Found, Search, Source},
    shared::{Handle, Topic, advance},
};

/// How many records one turn of a search by time looks at, so that other reads get theirs.
const SEARCH_ROWS: usize = 10_000;

/// A place in a partition.
#[derive(Debug)]
pub(crate) struct EmbeddedReader {
    handle: Arc<Handle>,
    source: Source,
    next: Offset,
    end: watch::Receiver<Offset>,
    /// Offsets of this partition that are gone, of which the reader has not warned yet.
    lost: Vec<Range<Offset>>,
}

impl EmbeddedReader {
    /// Finds the place. By time it looks through the timestamps from the first record on, because they need not
    /// grow with the offsets: its cost is that of reading the partition.
    pub(crate) async fn open(
        handle: Arc<Handle>,
        partition: &PartitionId,
        start: Start,
    ) -> Result<Self, LogError> {
        let topic = handle.require_topic(&partition.topic).await?;
        let (id, end) = find(&topic, partition)?;
        let next = match start {
            Start::Offset(offset) => offset,
            Start::Earliest => range(&handle, partition, id).await?.0,
            Start::Latest => range(&handle, partition, id).await?.1,
            Start::Time(time) => search(&handle, partition, id, time.as_micros()).await?,
        };
        let lost = handle.shared.lost_in(id);
        let source = Source {
            partition: partition.clone(),
            id,
            compacted: topic.info.spec.compacted,
            lost: lost.clone().into(),
        };
        Ok(Self { handle, source, next, end, lost })
    }

    async fn next_batch(&mut self, max: usize) -> Result<Arc<dyn RecordBatch>, LogError> {
        let handle = Arc::clone(&self.handle);
        let _waiting = Waiting::new(&handle.shared.waiting);
        loop {
            self.handle.shared.check()?;
            let seen = *self.end.borrow_and_update();
            if self.next == seen {
                self.end.changed().await.map_err(|_| closed())?;
                continue;
            }
            match self.query(max).await? {
                Found::Records(batch) => {
                    if let Some(last) = batch.last() {
                        self.warn_of_lost(last + 1);
                        self.next = last + 1;
                    }
                    return Ok(Arc::new(batch));
                }
                Found::Nothing(end) if end < seen => {
                    return Err(reading::out_of_range(&self.source.partition, seen, self.next, end));
                }
                Found::Nothing(end) => {
                    if end == self.next {
                        // Our own end was behind another process's; there is nothing yet.
                        continue;
                    }
                    // A hole up to the end: the position moves, and the caller learns of it.
                    self.warn_of_lost(end);
                    self.next = end;
                    let buffers = &handle.shared.buffers;
                    return Ok(Arc::new(EmbeddedBatch::new(self.source.partition.clone(), buffers)));
                }
            }
        }
    }

    async fn query(&self, max: usize) -> Result<Found, LogError> {
        let (shared, source) = (Arc::clone(&self.handle.shared), self.source.clone());
        let from = self.next;
        self.handle
            .query(move |connection| {
                let found = reading::read(&shared, connection, &source, from, max)?;
                if let Found::Nothing(end) = found
                    && let Some(topic) = shared.topic(&source.partition.topic)
                    && let Some(partition) = topic.partition(source.partition.partition)
                {
                    // Another process may have moved the end since we looked.
                    advance(&partition.end, end);
                }
                Ok(found)
            })
            .await
    }

    /// Says once that the way from here to `to` crosses offsets that were acknowledged and are gone.
    fn warn_of_lost(&mut self, to: Offset) {
        let (next, partition) = (self.next, &self.source.partition);
        self.lost.retain(|range| {
            let crossed = range.start < to && next < range.end;
            if crossed {
                tracing::warn!(
                    %partition,
                    first = range.start,
                    end = range.end,
                    "a reader crossed offsets that were acknowledged and are gone: the log went back"
                );
            }
            !crossed
        });
    }
}

impl PartitionReader for EmbeddedReader {
    fn position(&self) -> Offset {
        self.next
    }

    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        Box::pin(self.next_batch(max))
    }

    fn seek(&mut self, offset: Offset) {
        self.next = offset;
    }
}

/// Counts a reader as waiting; while one is, other processes' commits are looked for.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn find(topic: &Topic, partition: &PartitionId) -> Result<(i64, watch::Receiver<Offset>), LogError> {
    topic.partition(partition.partition).map(|found| (found.id, found.end.subscribe())).ok_or_else(|| {
        configuration(format!(
            "topic {} has {} partitions, there is no partition {}",
            partition.topic,
            topic.count(),
            partition.partition
        ))
    })
}

async fn range(handle: &Handle, partition: &PartitionId, id: i64) -> Result<(Offset, Offset), LogError> {
    let (shared, partition) = (Arc::clone(&handle.shared), partition.clone());
    handle
        .query(move |connection| {
            reading::range(connection, id)
                .map_err(|error| shared.error(&format!("cannot read the range of {partition}"), error))
        })
        .await
}

async fn search(handle: &Handle, partition: &PartitionId, id: i64, micros: i64) -> Result<Offset, LogError> {
    let (mut from, end) = range(handle, partition, id).await?;
    loop {
        let (shared, name) = (Arc::clone(&handle.shared), partition.clone());
        let found = handle
            .query(move |connection| {
                reading::search_time(connection, id, from, end, micros, SEARCH_ROWS)
                    .map_err(|error| shared.error(&format!("cannot search {name} by time"), error))
            })
            .await?;
        match found {
            Search::Found(offset) => return Ok(offset),
            Search::GoOn(offset) => from = offset,
            Search::End => return Ok(end),
        }
    }
}
