//! One task per partition: reads within the window, attempts the first record of each lane, knows which deliveries have
//! ended, and keeps parked keys. It waits here, and drains here.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aqueduct_core::{
    Record,
    log::{Offset, PartitionReader},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    admission::ended,
    aside::{Aside, Op, Refused, Written},
    delivery::{Assigned, Shared},
    feed::{Fed, Feeder},
    in_flight::InFlight,
    lanes::Lanes,
    parking::{control::Asked, index::ParkedKeys},
    places::Places,
    progress::Progress,
    returned::Returned,
    ring::Ring,
    sync::Ordering,
    watch::Watch,
    work::{Finished, Spare, Work},
};

/// Records asked of a reader at once.
pub(crate) const READ_BATCH: usize = 512;

/// How often a partition with open deliveries says what holds it.
const LOOK: Duration = Duration::from_secs(1);

/// What the subscriber wants of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Go on.
    Run,
    /// Take nothing more; finish what runs.
    Drain(Limits),
    /// It is not ours any more: stop at once.
    Lost,
}

/// How long a partition may take to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For handlers that run to end.
    pub(crate) handlers: Duration,
    /// After it, for what has ended to be written: what handlers returned has ended once it is stored.
    pub(crate) writes: Duration,
}

impl Limits {
    const NONE: Self = Self { handlers: Duration::MAX, writes: Duration::ZERO };
}

/// How a partition's task ended.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Drained; so many deliveries had begun and did not end, or what they returned was not stored.
    Drained { unfinished: usize },
    /// Another owner has it.
    Fenced,
    /// It stopped itself.
    Stopped(String),
    /// It was added, and need not wait any more.
    Grown,
}

pub(crate) struct Partition {
    pub(super) shared: Arc<Shared>,
    pub(super) assigned: Arc<Assigned>,
    pub(super) ring: Ring,
    pub(super) progress: Arc<Progress>,
    /// Offsets that ended under an earlier assignment.
    pub(super) ended: HashSet<Offset>,
    pub(super) lanes: Lanes,
    pub(super) running: InFlight<Work>,
    /// What has ended and was not taken in yet.
    pub(super) finished: VecDeque<Finished>,
    pub(super) parked: ParkedKeys,
    pub(super) aside: Aside,
    pub(super) returned: Returned,
    pub(super) spare: Spare,
    pub(super) places: Places,
    /// Read, and not yet within the window: the next record of a batch, and where the reader stood after the batch.
    pub(super) pending: Option<(Record, Offset)>,
    /// Heads that an outage holds.
    pub(super) held_up: usize,
    /// Ended since the status was last told.
    pub(super) news: u64,
    pub(super) told: (Offset, usize, usize),
    /// Settled offsets that are not stored yet, each with the delivery sequence that it stands for.
    pub(super) unstored: VecDeque<(Offset, u64)>,
    /// Deliveries before this sequence are stored as settled.
    pub(super) stored: u64,
    /// Before then nobody looks which key fills the window.
    pub(super) window_look: Instant,
    /// The status says what holds the settled offset.
    pub(super) holds_told: bool,
    pub(super) watch: Watch,
    /// Nothing begins any more.
    pub(super) draining: bool,
}

/// Why a partition's task cannot go on.
#[derive(Debug)]
pub(crate) enum Halt {
    Fenced,
    Stop(String),
}

/// What a partition starts with.
pub(crate) struct Beginning {
    pub(crate) ended: HashSet<Offset>,
    pub(crate) parked: ParkedKeys,
    pub(crate) releases: Vec<Asked>,
}

impl Partition {
    pub(crate) fn new(
        shared: Arc<Shared>,
        assigned: Arc<Assigned>,
        start: Offset,
        progress: Arc<Progress>,
        aside: Aside,
        beginning: Beginning,
    ) -> Self {
        let (routes, places) = (shared.routes.len(), Places::new(&shared.places));
        let mut partition = Self {
            shared,
            assigned,
            ring: Ring::new(start),
            progress,
            ended: beginning.ended,
            lanes: Lanes::default(),
            running: InFlight::new(),
            finished: VecDeque::new(),
            parked: beginning.parked,
            aside,
            returned: Returned::new(start),
            spare: Spare::new(routes),
            places,
            pending: None,
            held_up: 0,
            news: 0,
            told: (start, 0, 0),
            unstored: VecDeque::new(),
            stored: 0,
            window_look: Instant::now(),
            holds_told: false,
            watch: Watch::new(),
            draining: false,
        };
        for asked in beginning.releases {
            partition.release(asked);
        }
        partition
    }

    /// Runs until it is drained, lost or stopped.
    pub(crate) async fn run(
        mut self,
        reader: Box<dyn PartitionReader>,
        mut wish: watch::Receiver<Wish>,
        mut releases: mpsc::UnboundedReceiver<Asked>,
    ) -> Closed {
        let (batches, mut incoming) = mpsc::channel(1);
        let feeder =
            Feeder { shared: Arc::clone(&self.shared), assigned: Arc::clone(&self.assigned), reader };
        let feeder = AbortOnDropHandle::new(tokio::spawn(feeder.run(batches)));
        let mut timer = Box::pin(tokio::time::sleep(LOOK));
        let mut look = Instant::now() + LOOK;
        let halt = loop {
            let more = match self.step() {
                Ok(more) => more,
                Err(halt) => break halt,
            };
            self.tell();
            self.reset(timer.as_mut(), look);
            self.progress.hungry.store(self.pending.is_none(), Ordering::Relaxed);
            tokio::select! {
                biased;
                changed = wish.changed() => {
                    // An error means that the subscriber is gone: as good as lost.
                    let wished = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Lost if aqueduct_core::planted("lost-partition-runs-on") => {
                            let (_unheard, wish) = watch::channel(Wish::Run);
                            return self.drain(Limits::NONE, wish, None).await;
                        }
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(limits) => {
                            drop(feeder);
                            return self.drain(limits, wish, None).await;
                        }
                    }
                }
                Some(asked) = releases.recv() => self.release(asked),
                () = ended(&mut self.running, &mut self.finished, &mut self.watch, &self.shared, &self.assigned), if !self.running.is_empty() => {
                    if let Err(halt) = self.finish_all() { break halt }
                }
                written = self.aside.next(), if self.aside.busy() => {
                    if let Err(halt) = self.on_written(written) { break halt }
                }
                () = timer.as_mut() => {
                    self.lanes.wake_due(Instant::now());
                    self.release_due();
                    if look <= Instant::now() {
                        look = Instant::now() + LOOK;
                        self.say_what_holds();
                    }
                }
                () = self.progress.moved.notified(), if self.pending.is_some() && !more => {}
                () = self.places.got(), if self.places.wants() => {}
                fed = incoming.recv(), if self.pending.is_none() => match fed {
                    Some(Fed::Records(batch, position)) => {
                        self.progress.read.store(position, Ordering::Relaxed);
                        self.progress.given.store(true, Ordering::Relaxed);
                        match Record::new(batch, 0) {
                            Some(first) => self.pending = Some((first, position)),
                            None => self.ring.pass(position),
                        }
                    }
                    Some(Fed::Stuck(reason)) => self.stuck(Some(reason)),
                    Some(Fed::Passed(position)) => {
                        self.progress.read.store(position, Ordering::Relaxed);
                        self.ring.pass(position);
                        self.stuck(None);
                    }
                    Some(Fed::Over(error)) => break Halt::Stop(error.to_string()),
                    None => break Halt::Stop("its reader ended".to_owned()),
                },
                () = tokio::task::yield_now(), if more => {}
            }
        };
        drop(feeder);
        let Halt::Stop(stopped) = halt else { return Closed::Fenced };
        // Said now: other keys may take long to end, or for ever.
        self.stuck(Some(stopped.clone()));
        self.drain(Limits::NONE, wish, Some(stopped)).await
    }

    /// Says why nothing more is read, or that it goes on.
    fn stuck(&self, reason: Option<String>) {
        self.shared.board.partition(&self.assigned.partition, |status| status.stopped = reason);
    }

    /// Begins nothing more, and waits for what has begun: within `limits`, or those that the subscriber sets meanwhile.
    async fn drain(
        mut self,
        mut limits: Limits,
        mut wish: watch::Receiver<Wish>,
        mut stopped: Option<String>,
    ) -> Closed {
        self.draining = true;
        self.pending = None;
        self.places.let_go();
        if aqueduct_core::planted("drain-begins-deliveries") {
            self.places.conjure(64);
            drop(self.start_ready(Instant::now()));
        }
        let mut unfinished = self.lanes.drain();
        self.tell();
        let timer = tokio::time::sleep(limits.handlers);
        tokio::pin!(timer);
        let mut given_up = false;
        while !self.running.is_empty() || !self.finished.is_empty() || self.aside.busy() {
            let ended = tokio::select! {
                biased;
                changed = wish.changed() => {
                    let wished = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(others) if given_up => {
                            let end = Instant::now() + others.handlers + others.writes;
                            if end < timer.deadline() {
                                timer.as_mut().reset(end);
                            }
                        }
                        Wish::Drain(others) => {
                            limits = others;
                            timer.as_mut().reset(Instant::now() + limits.handlers);
                        }
                    }
                    Ok(())
                }
                () = async {}, if !self.finished.is_empty() => self.finish_all(),
                () = ended(&mut self.running, &mut self.finished, &mut self.watch, &self.shared, &self.assigned), if !self.running.is_empty() => self.finish_all(),
                written = self.aside.next(), if self.aside.busy() => self.on_written(written),
                () = &mut timer => {
                    if given_up || !self.aside.busy() || aqueduct_core::planted("writes-end-with-handlers") {
                        break;
                    }
                    given_up = true;
                    self.running = InFlight::new();
                    timer.as_mut().reset(Instant::now() + limits.writes);
                    Ok(())
                }
            };
            match ended {
                Ok(()) => {}
                Err(Halt::Fenced) => return Closed::Fenced,
                Err(Halt::Stop(reason)) => {
                    tracing::warn!(reason, "stopped while draining");
                    stopped.get_or_insert(reason);
                }
            }
            self.places.let_go();
            // What failed now is not tried again here.
            unfinished += self.lanes.drain();
            self.tell();
        }
        unfinished += self.lanes.iter().count();
        if !aqueduct_core::planted("unstored-not-reported") {
            unfinished += self.aside.unstored() + self.returned.kept();
        }
        if aqueduct_core::planted("drain-settles-unfinished") {
            (self.ring.first()..self.ring.first() + 64).for_each(|sequence| self.ring.end(sequence));
        }
        self.tell();
        match stopped {
            Some(reason) => Closed::Stopped(reason),
            None => Closed::Drained { unfinished },
        }
    }

    pub(super) fn on_written(&mut self, written: Written) -> Result<(), Halt> {
        let positions = match written.result {
            Ok(positions) => positions,
            Err(refused) => {
                self.aside.shut();
                return Err(match refused {
                    Refused::Fenced => Halt::Fenced,
                    Refused::Stop(reason) => Halt::Stop(reason),
                });
            }
        };
        for (op, at) in written.ops.into_iter().zip(positions) {
            self.on_stored(op, at);
        }
        Ok(())
    }

    pub(super) fn push_aside(&mut self, op: Op) {
        self.aside.push(op);
    }
}
