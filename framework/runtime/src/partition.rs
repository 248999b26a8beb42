//! One task per partition: reads within the window, keeps one lane per key, and knows which deliveries have ended.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, Record, RecordBatch,
    cloudevents::Incoming,
    log::{Offset, PartitionReader},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    delivery::{Assigned, End, Shared},
    ring::Ring,
    subscription::Target,
};

/// Records asked of a reader at once.
const READ_BATCH: usize = 512;

/// What the subscriber wants of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Go on.
    Run,
    /// Take nothing more; finish what runs within this time.
    Drain(Duration),
    /// It is not ours any more: stop at once.
    Lost,
}

/// How a partition's task ended.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Drained; so many deliveries were in flight and did not end.
    Drained { unfinished: usize },
    /// Another owner has it.
    Fenced,
    /// It stopped itself.
    Stopped(String),
}

pub(crate) struct Partition<S> {
    shared: Arc<Shared<S>>,
    assigned: Arc<Assigned>,
    ring: Ring,
    settled: Arc<AtomicI64>,
    /// Offsets that ended under an earlier assignment.
    ended: HashSet<Offset>,
    lanes: HashMap<Box<[u8]>, VecDeque<(u64, Record)>>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Read, and not yet within the window: with the next index, and where the reader stood after it.
    pending: Option<(Arc<dyn RecordBatch>, usize, Offset)>,
    window_reported: bool,
}

struct Finished {
    lane: Option<Box<[u8]>>,
    sequence: u64,
    end: End,
}

impl<S: Send + Sync + 'static> Partition<S> {
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
        assigned: Assigned,
        start: Offset,
        ended: Vec<Offset>,
        settled: Arc<AtomicI64>,
    ) -> Self {
        Self {
            shared,
            assigned: Arc::new(assigned),
            ring: Ring::new(start),
            settled,
            ended: ended.into_iter().collect(),
            lanes: HashMap::new(),
            running: FuturesUnordered::new(),
            pending: None,
            window_reported: false,
        }
    }

    /// Runs until it is drained, lost or stopped.
    pub(crate) async fn run(
        mut self,
        reader: Box<dyn PartitionReader>,
        mut wish: watch::Receiver<Wish>,
    ) -> Closed {
        let (batches, mut incoming) = mpsc::channel(1);
        let feeder = AbortOnDropHandle::new(tokio::spawn(feed(reader, batches)));
        let stopped = loop {
            self.admit();
            tokio::select! {
                biased;
                changed = wish.changed() => {
                    // An error means that the subscriber is gone: as good as lost.
                    let wished = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(deadline) => {
                            drop(feeder);
                            return self.drain(Some(deadline), wish, None).await;
                        }
                    }
                }
                Some(finished) = self.running.next(), if !self.running.is_empty() => match self.finish(finished) {
                    None | Some(End::NotBegun) => {}
                    Some(End::Stop(reason)) => break reason,
                    Some(_) => return Closed::Fenced,
                },
                batch = incoming.recv(), if self.pending.is_none() => match batch {
                    Some(Ok((batch, position))) => self.pending = Some((batch, 0, position)),
                    Some(Err(error)) => break error.to_string(),
                    None => break "its reader ended".to_owned(),
                },
            }
        };
        drop(feeder);
        // Said now: other keys may take long to end, or for ever.
        self.shared
            .board
            .partition(&self.assigned.partition, |status| status.stopped = Some(stopped.clone()));
        self.drain(None, wish, Some(stopped)).await
    }

    /// Begins nothing more, and waits for what has begun: until `deadline`, or until the subscriber sets one.
    async fn drain(
        mut self,
        deadline: Option<Duration>,
        mut wish: watch::Receiver<Wish>,
        stopped: Option<String>,
    ) -> Closed {
        self.assigned.draining.store(true, Ordering::Release);
        self.pending = None;
        for queue in self.lanes.values_mut() {
            queue.clear();
        }
        let timer = tokio::time::sleep(deadline.unwrap_or(Duration::MAX));
        tokio::pin!(timer);
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                changed = wish.changed() => {
                    let wished = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(deadline) => timer.as_mut().reset(tokio::time::Instant::now() + deadline),
                    }
                }
                Some(finished) = self.running.next() => match &finished.end {
                    End::Ended => self.ring_end(&finished),
                    End::NotBegun => {}
                    End::Fenced => return Closed::Fenced,
                    End::Stop(reason) => tracing::warn!(reason, "stopped while draining"),
                },
                () = &mut timer => break,
            }
        }
        match stopped {
            Some(reason) => Closed::Stopped(reason),
            // Those that wait for a place have not begun; they are not in flight.
            None => Closed::Drained { unfinished: self.assigned.begun.load(Ordering::Acquire) },
        }
    }

    /// Takes what the window has room for.
    fn admit(&mut self) {
        let window = self.shared.subscription.window;
        while let Some((batch, index, position)) = self.pending.take() {
            let Some(record) = Record::new(Arc::clone(&batch), index) else {
                self.ring.pass(position);
                self.publish_settled();
                return;
            };
            if self.ring.len() >= window {
                self.pending = Some((batch, index, position));
                self.report_window();
                return;
            }
            self.window_reported = false;
            self.pending = Some((batch, index + 1, position));
            let sequence = self.ring.push(record.offset());
            if self.ended.remove(&record.offset()) || self.ignored(&record) {
                self.ended_now(sequence);
                continue;
            }
            match record.key() {
                None => self.start(None, sequence, record),
                Some(key) => match self.lanes.get_mut(key) {
                    Some(queue) => queue.push_back((sequence, record)),
                    None => {
                        let lane: Box<[u8]> = key.into();
                        self.lanes.insert(lane.clone(), VecDeque::new());
                        self.start(Some(lane), sequence, record);
                    }
                },
            }
        }
    }

    /// An ignored event has no effect, so it need not wait for its key.
    fn ignored(&self, record: &Record) -> bool {
        self.shared.routing.ignores
            && Incoming::read(record, None).is_ok_and(|incoming| {
                matches!(self.shared.routing.target(incoming.event_type().0), Some(Target::Ignore))
            })
    }

    fn start(&self, lane: Option<Box<[u8]>>, sequence: u64, record: Record) {
        let shared = Arc::clone(&self.shared);
        let assigned = Arc::clone(&self.assigned);
        let settled = Arc::clone(&self.settled);
        let delivery = async move {
            let end = shared.deliver(&assigned, record, &|| settled.load(Ordering::Acquire)).await;
            if !matches!(end, End::NotBegun) {
                assigned.begun.fetch_sub(1, Ordering::AcqRel);
            }
            Finished { lane, sequence, end }
        };
        self.running.push(delivery.boxed());
    }

    /// Ends a delivery and starts the next of its lane; the result says why the partition cannot go on.
    fn finish(&mut self, finished: Finished) -> Option<End> {
        if !matches!(finished.end, End::Ended) {
            return Some(finished.end);
        }
        self.ring_end(&finished);
        if let Some(lane) = finished.lane {
            match self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                Some((sequence, record)) => self.start(Some(lane), sequence, record),
                None => {
                    self.lanes.remove(&lane);
                }
            }
        }
        None
    }

    fn ring_end(&mut self, finished: &Finished) {
        if matches!(finished.end, End::Ended) {
            self.ended_now(finished.sequence);
        }
    }

    fn ended_now(&mut self, sequence: u64) {
        self.ring.end(sequence);
        self.shared.board.lock().ended += 1;
        self.publish_settled();
    }

    fn publish_settled(&self) {
        let (settled, in_flight) = (self.ring.settled(), self.ring.len());
        self.settled.store(settled, Ordering::Release);
        self.shared.board.partition(&self.assigned.partition, |status| {
            status.settled = settled;
            status.in_flight = in_flight;
        });
    }

    /// A full window stops reading; it names the key that fills it, once an episode.
    fn report_window(&mut self) {
        if self.window_reported || self.running.is_empty() {
            return;
        }
        // Under load a window is full for moments; only one that holds many deliveries of one key is worth a word.
        let Some((key, queued)) =
            self.lanes.iter().map(|(key, queue)| (key, queue.len())).max_by_key(|(_, queued)| *queued)
        else {
            return;
        };
        if queued * 4 < self.ring.len() {
            return;
        }
        self.window_reported = true;
        tracing::warn!(
            subscription = self.shared.subscription.name,
            partition = %self.assigned.partition,
            key = %key.escape_ascii(),
            queued,
            oldest = self.ring.oldest(),
            "one key fills the window: other keys of the partition wait"
        );
    }
}

/// What a reader gave, and where it stood afterwards.
type Fed = Result<(Arc<dyn RecordBatch>, Offset), LogError>;

/// Reads ahead by one batch. An unreachable log is waited for; any other error ends the partition.
async fn feed(mut reader: Box<dyn PartitionReader>, batches: mpsc::Sender<Fed>) {
    let mut delay = Duration::from_millis(50);
    loop {
        match reader.read(READ_BATCH).await {
            Ok(batch) => {
                delay = Duration::from_millis(50);
                if batches.send(Ok((batch, reader.position()))).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == LogErrorKind::Unreachable => {
                tracing::warn!(%error, ?delay, "cannot read, trying again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(10));
            }
            Err(error) => {
                // The receiver may be gone by now; then nobody wants to know.
                let _ = batches.send(Err(error)).await;
                return;
            }
        }
    }
}
