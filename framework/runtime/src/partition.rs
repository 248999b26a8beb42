//! One task per partition: reads within the window, attempts the first record of each lane, knows which deliveries have
//! ended, and keeps parked keys.

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind, Record, RecordBatch,
    cloudevents::Incoming,
    log::{Offset, PartitionReader},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, Sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    aside::{Aside, Op, Refused, Written},
    delivery::{Assigned, Attempted, InPlace, Shared},
    in_flight::InFlight,
    lanes::{Head, KeyBytes, LaneId, Lanes, Origin, State, holder},
    parking::{control::Asked, index::ParkedKeys},
    places::{Permit, Places},
    ring::Ring,
    subscription::Target,
    sync::{AtomicBool, AtomicI64, Ordering},
    watch::Watch,
    work::{Attempt, Finished, Spare, Work},
};

/// Records asked of a reader at once.
const READ_BATCH: usize = 512;

/// How long records are handled where they were read before others get a turn.
const BUDGET: Duration = Duration::from_millis(5);

/// How often one key that fills the window is named.
const REPORT: Duration = Duration::from_secs(10);

/// How often a partition with open deliveries says what holds it.
const LOOK: Duration = Duration::from_secs(1);

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
    /// Drained; so many deliveries had begun and did not end.
    Drained { unfinished: usize },
    /// Another owner has it.
    Fenced,
    /// It stopped itself.
    Stopped(String),
}

/// What the subscriber sees of a partition without asking its task.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The settled offset.
    pub(crate) settled: AtomicI64,
    /// Where its reader stands.
    pub(crate) read: AtomicI64,
    /// Whether its reader has given anything under this assignment.
    pub(crate) given: AtomicBool,
    /// Whether it waits for records.
    pub(crate) hungry: AtomicBool,
    /// The settled offset that the log and the database have.
    pub(crate) stored: AtomicI64,
    /// Told when `stored` moved.
    pub(crate) moved: Notify,
    /// Told when so much has been settled since that it should be stored before its time.
    pub(crate) hurry: Arc<Notify>,
}

pub(crate) struct Partition<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) assigned: Arc<Assigned>,
    pub(super) ring: Ring,
    pub(super) progress: Arc<Progress>,
    /// Offsets that ended under an earlier assignment.
    ended: HashSet<Offset>,
    pub(super) lanes: Lanes,
    pub(super) running: InFlight<Work<S>>,
    /// What has ended and was not taken in yet.
    finished: VecDeque<Finished<S>>,
    pub(super) parked: ParkedKeys,
    pub(super) aside: Aside,
    spare: Spare<S>,
    places: Places,
    /// Read, and not yet within the window: the next record of a batch, and where the reader stood after the batch.
    pending: Option<(Record, Offset)>,
    /// Heads that an outage holds.
    pub(super) held_up: usize,
    /// Ended since the status was last told.
    pub(super) news: u64,
    told: (Offset, usize, usize),
    /// Settled offsets that are not stored yet, each with the delivery sequence that it stands for.
    unstored: VecDeque<(Offset, u64)>,
    /// Deliveries before this sequence are stored as settled.
    stored: u64,
    window_reported: Option<Instant>,
    watch: Watch,
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

impl<S: Send + Sync + 'static> Partition<S> {
    pub(crate) fn new(
        shared: Arc<Shared<S>>,
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
            spare: Spare::new(routes),
            places,
            pending: None,
            held_up: 0,
            news: 0,
            told: (start, 0, 0),
            unstored: VecDeque::new(),
            stored: 0,
            window_reported: None,
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
        let feeder = AbortOnDropHandle::new(tokio::spawn(feed(reader, batches)));
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
                            return self.drain(None, wish, None).await;
                        }
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(deadline) => {
                            drop(feeder);
                            return self.drain(Some(deadline), wish, None).await;
                        }
                    }
                }
                Some(asked) = releases.recv() => self.release(asked),
                () = ended(&mut self.running, &mut self.finished, &mut self.watch, &self.shared), if !self.running.is_empty() => {
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
                batch = incoming.recv(), if self.pending.is_none() => match batch {
                    Some(Ok((batch, position))) => {
                        self.progress.read.store(position, Ordering::Relaxed);
                        self.progress.given.store(true, Ordering::Relaxed);
                        match Record::new(batch, 0) {
                            Some(first) => self.pending = Some((first, position)),
                            None => self.ring.pass(position),
                        }
                    }
                    Some(Err(error)) => break Halt::Stop(error.to_string()),
                    None => break Halt::Stop("its reader ended".to_owned()),
                },
                () = tokio::task::yield_now(), if more => {}
            }
        };
        drop(feeder);
        let Halt::Stop(stopped) = halt else { return Closed::Fenced };
        // Said now: other keys may take long to end, or for ever.
        self.shared
            .board
            .partition(&self.assigned.partition, |status| status.stopped = Some(stopped.clone()));
        self.drain(None, wish, Some(stopped)).await
    }

    /// Starts what can start now; `true`: there is more, and others had no turn for a while.
    fn step(&mut self) -> Result<bool, Halt> {
        self.start_ready()?;
        let more = self.admit()?;
        if !self.lanes.has_ready() {
            self.places.let_go();
        }
        Ok(more)
    }

    /// Starts lanes in line, as far as there are places.
    fn start_ready(&mut self) -> Result<(), Halt> {
        if !self.lanes.has_ready() {
            return Ok(());
        }
        self.watch.begin();
        while self.lanes.has_ready() {
            let Some(permit) = self.places.take() else {
                self.places.want();
                break;
            };
            match self.lanes.next_ready() {
                Some(id) => self.start(id, permit)?,
                None => self.places.give(permit),
            }
        }
        self.watch.end();
        Ok(())
    }

    /// Begins an attempt at a lane's first record, here where that is possible.
    fn start(&mut self, id: LaneId, permit: Permit) -> Result<(), Halt> {
        let Some(lane) = self.lanes.get_mut(id) else {
            self.places.give(permit);
            return Ok(());
        };
        lane.head.attempts += 1;
        lane.head.state = State::Running;
        let (record, number) = (lane.head.record.clone(), lane.head.attempts);
        self.watch.before();
        let (in_place, route) = self.poll_in_place(&record, number);
        if let InPlace::Over(attempted) = in_place {
            self.places.give(permit);
            return self.on_attempted(id, attempted);
        }
        self.spawn(id, record, in_place, route, permit);
        Ok(())
    }

    /// Polls a record's handler once, here; tells of a poll that took long.
    fn poll_in_place(&mut self, record: &Record, attempt: u32) -> (InPlace<S>, Option<usize>) {
        let waker = self.running.next_waker();
        let (in_place, route) = self.shared.in_place(&self.assigned, record, attempt, &mut self.spare, waker);
        if let Some(took) = self.watch.after()
            && let Some(route) = route
            && !matches!(in_place, InPlace::Elsewhere)
        {
            self.shared.took(route, took);
        }
        (in_place, route)
    }

    /// Lets an attempt go on beside this task.
    fn spawn(
        &mut self,
        lane: LaneId,
        record: Record,
        in_place: InPlace<S>,
        route: Option<usize>,
        permit: Permit,
    ) {
        let Some(head) = self.lanes.get(lane).map(|lane| &lane.head) else { return };
        let (number, place) = (head.attempts, head.place());
        let (shared, assigned) = (Arc::clone(&self.shared), Arc::clone(&self.assigned));
        let blocks = route.is_some_and(|route| shared.blocks(route));
        let attempt = Attempt { lane, record, number, place, permit, shared, assigned };
        let (begun, returned) = match in_place {
            InPlace::Waits(started) if !blocks => {
                self.running.insert(Work::Handler(attempt, started));
                return;
            }
            InPlace::Waits(started) => (Some(started), None),
            InPlace::Returned(started, drafts) => (Some(started), Some(drafts)),
            InPlace::Over(_) | InPlace::Elsewhere => (None, None),
        };
        let attempt = attempt.run(begun, returned);
        if !blocks {
            self.running.push(Work::boxed(attempt));
            return;
        }
        let task = AbortOnDropHandle::new(tokio::spawn(attempt));
        self.running.push(Work::boxed(async move {
            task.await.unwrap_or_else(|error| {
                // Handlers are caught one by one, so this is a defect of ours, or the runtime shuts down.
                let attempted = Attempted::Outage(format!("its task ended: {error}"));
                Finished::Attempt { lane, attempted, slot: None, permit: None }
            })
        }));
    }

    /// Takes what the window has room for; `true`: there is more, and others had no turn for a while.
    fn admit(&mut self) -> Result<bool, Halt> {
        let Some((mut record, position)) = self.pending.take() else { return Ok(false) };
        let window = self.shared.subscription.window;
        self.look_at_stored();
        let began = self.watch.begin();
        loop {
            // From the stored settled offset: a crash repeats no more than a window.
            let full = self.ring.len() >= window || self.above_stored() >= window;
            if full && !aqueduct_core::planted("window-without-bound")
                || aqueduct_core::planted("retries-hold-neighbours") && self.lanes.next_due().is_some()
            {
                self.pending = Some((record, position));
                self.report_window();
                return Ok(false);
            }
            if self.watch.before().is_some_and(|now| now - began > BUDGET) {
                self.pending = Some((record, position));
                return Ok(true);
            }
            self.take_in(&record)?;
            if !record.advance() {
                break;
            }
        }
        self.watch.end();
        self.ring.pass(position);
        self.start_ready()?;
        Ok(false)
    }

    /// Takes a record in. One whose key is idle is handled right here.
    fn take_in(&mut self, record: &Record) -> Result<(), Halt> {
        let sequence = self.ring.push(record.offset());
        if (!self.ended.is_empty() && self.ended.remove(&record.offset())) || self.ignored(record) {
            self.end(sequence);
            return Ok(());
        }
        if let Some(key) = record.key() {
            if let Some(parked) = self.parked.get(key)
                && !aqueduct_core::planted("parked-key-not-consulted")
            {
                return self.park_behind(&parked, sequence, record.clone());
            }
            if let Some(id) = self.lanes.of_key(key)
                && !aqueduct_core::planted("key-in-parallel")
            {
                return self.queue(id, sequence, record.clone());
            }
        }
        // Who waits in line comes first.
        let permit = if self.lanes.has_ready() { None } else { self.places.take() };
        let Some(permit) = permit else {
            let id = self
                .lanes
                .open(record.key().map(KeyBytes::from), Head::new(record.clone(), Origin::Live(sequence)));
            self.lanes.make_ready(id);
            return Ok(());
        };
        let (in_place, route) = self.poll_in_place(record, 1);
        match in_place {
            InPlace::Over(Attempted::Ended) => {
                self.places.give(permit);
                self.end(sequence);
                Ok(())
            }
            InPlace::Over(attempted) => {
                self.places.give(permit);
                let id = self.open_running(record, sequence);
                self.on_attempted(id, attempted)
            }
            waits => {
                let id = self.open_running(record, sequence);
                self.spawn(id, record.clone(), waits, route, permit);
                Ok(())
            }
        }
    }

    /// Opens the lane of a record that is being attempted for the first time.
    fn open_running(&mut self, record: &Record, sequence: u64) -> LaneId {
        let mut head = Head::new(record.clone(), Origin::Live(sequence));
        (head.attempts, head.state) = (1, State::Running);
        self.lanes.open(record.key().map(KeyBytes::from), head)
    }

    /// An ignored event has no effect, so it need not wait for its key.
    fn ignored(&self, record: &Record) -> bool {
        self.shared.routing.ignores
            && Incoming::read(record, None).is_ok_and(|incoming| {
                matches!(self.shared.routing.target(incoming.event_type().0), Some(Target::Ignore))
            })
    }

    /// Takes in what ended.
    fn finish_all(&mut self) -> Result<(), Halt> {
        while let Some(finished) = self.finished.pop_front() {
            match finished {
                Finished::Attempt { lane, attempted, slot, permit } => {
                    if let Some(slot) = slot {
                        self.spare.give(slot);
                    }
                    match permit {
                        Some(permit) => self.places.give(permit),
                        None => self.places.lost(),
                    }
                    self.on_attempted(lane, attempted)?;
                }
                Finished::Marked { lane, attempted } => self.on_attempted(lane, attempted)?,
                Finished::Loaded { key, offset, loaded } => self.on_loaded(key, offset, loaded)?,
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self, sequence: u64) {
        self.ring.end(sequence);
        self.news += 1;
    }

    /// Tells the status what is new.
    fn tell(&mut self) {
        let now = (self.ring.settled(), self.ring.len(), self.parked.records());
        if now == self.told && self.news == 0 {
            return;
        }
        self.told = now;
        let (settled, in_flight, parked) = now;
        self.note_unstored(settled);
        self.progress.settled.store(settled, Ordering::Release);
        let news = std::mem::take(&mut self.news);
        let mut status = self.shared.board.lock();
        status.ended += news;
        if let Some(partition) = status.partitions.get_mut(&self.assigned.partition) {
            partition.settled = settled;
            partition.in_flight = in_flight;
            partition.parked = parked;
            partition.ended += news;
        }
    }

    /// Remembers which delivery a settled offset stands for, and asks for it to be stored where much is not.
    fn note_unstored(&mut self, settled: Offset) {
        let (sequence, window) = (self.ring.first(), self.shared.subscription.window);
        let step = u64::try_from(window / 16).unwrap_or(u64::MAX);
        let last = self.unstored.back().map_or(self.stored, |(_, sequence)| *sequence);
        if sequence > last + step || (sequence > last && self.ring.len() == 0) {
            self.unstored.push_back((settled, sequence));
        }
        if self.above_stored() >= window.div_ceil(2) {
            self.progress.hurry.notify_one();
        }
    }

    /// Deliveries above the stored settled offset: what a crash now would repeat, at most.
    fn above_stored(&self) -> usize {
        usize::try_from(self.ring.next() - self.stored).unwrap_or(usize::MAX)
    }

    /// Takes in how far the settled offset has been stored.
    fn look_at_stored(&mut self) {
        let stored = self.progress.stored.load(Ordering::Acquire);
        while let Some((_, sequence)) = self.unstored.front().copied().filter(|(offset, _)| *offset <= stored)
        {
            self.unstored.pop_front();
            self.stored = sequence;
        }
    }

    /// Sets the timer to what comes first: a lane's next attempt, a key's release, or the next look.
    fn reset(&self, timer: Pin<&mut Sleep>, look: Instant) {
        let mut next = look;
        if let Some(due) = self.lanes.next_due() {
            next = next.min(due);
        }
        if let Some(due) = self.parked.next_due() {
            let now = self.shared.bus.environment().now();
            let left = u64::try_from(due.as_micros().saturating_sub(now.as_micros())).unwrap_or(0);
            next = next.min(Instant::now() + Duration::from_micros(left));
        }
        if timer.deadline() != next {
            timer.reset(next);
        }
    }

    /// Tells the status which delivery holds the settled offset.
    fn say_what_holds(&self) {
        let holds = self.ring.oldest().map(|offset| match self.lanes.with_head(self.ring.first()) {
            Some(lane) => holder(lane, offset),
            None => format!("the record at offset {offset} waits for its parked copy to be stored"),
        });
        self.shared.board.partition(&self.assigned.partition, |status| status.holds = holds);
    }

    /// Begins nothing more, and waits for what has begun: until `deadline`, or until the subscriber sets one.
    async fn drain(
        mut self,
        deadline: Option<Duration>,
        mut wish: watch::Receiver<Wish>,
        stopped: Option<String>,
    ) -> Closed {
        self.draining = true;
        self.pending = None;
        self.places.let_go();
        if aqueduct_core::planted("drain-begins-deliveries") {
            self.places.conjure(64);
            drop(self.start_ready());
        }
        let mut unfinished = self.lanes.drain();
        let timer = tokio::time::sleep(deadline.unwrap_or(Duration::MAX));
        tokio::pin!(timer);
        while !self.running.is_empty() || !self.finished.is_empty() || self.aside.busy() {
            let ended = tokio::select! {
                biased;
                changed = wish.changed() => {
                    let wished = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Lost => return Closed::Fenced,
                        Wish::Drain(deadline) => timer.as_mut().reset(Instant::now() + deadline),
                    }
                    Ok(())
                }
                () = async {}, if !self.finished.is_empty() => self.finish_all(),
                () = ended(&mut self.running, &mut self.finished, &mut self.watch, &self.shared), if !self.running.is_empty() => self.finish_all(),
                written = self.aside.next(), if self.aside.busy() => self.on_written(written),
                () = &mut timer => break,
            };
            match ended {
                Ok(()) => {}
                Err(Halt::Fenced) => return Closed::Fenced,
                Err(Halt::Stop(reason)) => tracing::warn!(reason, "stopped while draining"),
            }
            self.places.let_go();
            // What failed now is not tried again here.
            unfinished += self.lanes.drain();
            self.tell();
        }
        unfinished += self.lanes.iter().count();
        if aqueduct_core::planted("drain-settles-unfinished") {
            (self.ring.first()..self.ring.first() + 64).for_each(|sequence| self.ring.end(sequence));
        }
        self.tell();
        match stopped {
            Some(reason) => Closed::Stopped(reason),
            None => Closed::Drained { unfinished },
        }
    }

    /// A full window stops reading; it names the key that fills it, once an episode.
    fn report_window(&mut self) {
        if self.window_reported.is_some_and(|reported| reported.elapsed() < REPORT) {
            return;
        }
        // Under load a window is full for moments; only one that holds many deliveries of one key is worth a word.
        let Some((lane, queued)) =
            self.lanes.longest().and_then(|(id, queued)| Some((self.lanes.get(id)?, queued)))
        else {
            return;
        };
        if queued * 4 < self.ring.len() {
            return;
        }
        let Some(key) = &lane.key else { return };
        self.window_reported = Some(Instant::now());
        let reason = match &lane.head.state {
            State::Backoff { reason, .. } => reason.as_str(),
            State::Ready | State::Running | State::Aside => "it is busy",
        };
        tracing::warn!(
            subscription = self.shared.subscription.name,
            partition = %self.assigned.partition,
            key = %key.escape_ascii(),
            queued,
            reason,
            oldest = self.ring.oldest(),
            "one key fills the window: other keys of the partition wait"
        );
    }

    pub(super) fn on_written(&mut self, written: Written) -> Result<(), Halt> {
        let positions = match written.result {
            Ok(positions) => positions,
            Err(Refused::Fenced) => return Err(Halt::Fenced),
            Err(Refused::Stop(reason)) => return Err(Halt::Stop(reason)),
        };
        for (op, position) in written.ops.into_iter().zip(positions) {
            self.on_stored(op, position.offset);
        }
        Ok(())
    }

    pub(super) fn push_aside(&mut self, op: Op) {
        self.aside.push(op);
    }
}

/// Runs on with what was woken, until something ends. Dropping the future loses nothing.
async fn ended<S: Send + Sync + 'static>(
    running: &mut InFlight<Work<S>>,
    finished: &mut VecDeque<Finished<S>>,
    watch: &mut Watch,
    shared: &Shared<S>,
) {
    poll_fn(|cx| {
        watch.begin();
        let ended = running.poll(
            cx,
            |work, cx| {
                watch.before();
                let route = work.route();
                let polled = work.poll(cx);
                if let Some(took) = watch.after()
                    && let Some(route) = route
                {
                    shared.took(route, took);
                }
                polled
            },
            |end| finished.push_back(end),
        );
        watch.end();
        ended
    })
    .await;
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
