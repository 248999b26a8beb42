//! How far a partition is, and what it says of that.

use std::{pin::Pin, sync::Arc, time::Duration};

use aqueduct_core::log::Offset;
use tokio::{
    sync::Notify,
    time::{Instant, Sleep},
};

use crate::{
    lanes::{State, holder},
    partition::Partition,
    sync::{AtomicBool, AtomicI64, Ordering},
};

/// How often one key that fills the window is named.
const REPORT: Duration = Duration::from_secs(10);

/// How much later a partition is looked at in which nothing happens.
const IDLE: Duration = Duration::from_secs(60);

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
    /// Something of it is stored: until then nothing is handled.
    pub(crate) begun: AtomicBool,
    /// The offset below which all has ended: beyond the settled one while what handlers returned is not stored.
    pub(crate) ended: AtomicI64,
    /// Told when `stored` moved, or it has begun.
    pub(crate) moved: Notify,
    /// Told when so much has been settled since that it should be stored before its time.
    pub(crate) hurry: Arc<Notify>,
}

impl Progress {
    pub(crate) fn new(start: Offset, begun: bool, hurry: &Arc<Notify>) -> Self {
        Self {
            settled: AtomicI64::new(start),
            read: AtomicI64::new(start),
            given: AtomicBool::new(false),
            hungry: AtomicBool::new(false),
            stored: AtomicI64::new(start),
            begun: AtomicBool::new(begun),
            ended: AtomicI64::new(start),
            moved: Notify::new(),
            hurry: Arc::clone(hurry),
        }
    }

    /// It can be handled from now on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.moved.notify_one();
    }
}

impl Partition {
    pub(super) fn end(&mut self, sequence: u64) {
        self.ring.end(sequence);
        self.news += 1;
    }

    /// Tells the status what is new.
    pub(super) fn tell(&mut self) {
        self.give_returned();
        let settled = if self.shared.subscription.settles_itself() {
            self.returned.stored
        } else {
            self.ring.settled()
        };
        let now = (settled, self.ring.len(), self.parked.records());
        if now == self.told && self.news == 0 {
            return;
        }
        self.told = now;
        let (settled, in_flight, parked) = now;
        self.note_unstored(self.ring.settled());
        self.progress.settled.store(settled, Ordering::Release);
        self.progress.ended.store(self.ring.settled(), Ordering::Release);
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
    pub(super) fn above_stored(&self) -> usize {
        usize::try_from(self.ring.next() - self.stored).unwrap_or(usize::MAX)
    }

    /// Takes in how far the settled offset has been stored.
    pub(super) fn look_at_stored(&mut self) {
        let stored = self.progress.stored.load(Ordering::Acquire);
        while let Some((_, sequence)) = self.unstored.front().copied().filter(|(offset, _)| *offset <= stored)
        {
            self.unstored.pop_front();
            self.stored = sequence;
        }
    }

    /// Sets the timer to what comes first: a lane's next attempt, a key's release, or the next look.
    pub(super) fn reset(&self, timer: Pin<&mut Sleep>, look: Instant) {
        // Of a partition in which nothing happens nothing is to be said: a service may have hundreds.
        let idle = self.ring.oldest().is_none() && !self.holds_told;
        let mut next = if idle { look + IDLE } else { look };
        if let Some(due) = self.lanes.next_due() {
            next = next.min(due);
        }
        if let Some(due) = self.settles_at() {
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
    pub(super) fn say_what_holds(&mut self) {
        let holds = self.ring.oldest().map(|offset| match self.lanes.with_head(self.ring.first()) {
            Some(lane) => holder(lane, offset),
            None => format!("the record at offset {offset} waits for its parked copy to be stored"),
        });
        self.holds_told = holds.is_some();
        self.shared.board.partition(&self.assigned.partition, |status| status.holds = holds);
    }

    /// A full window stops reading; it names the key that fills it, once an episode.
    pub(super) fn report_window(&mut self) {
        let now = Instant::now();
        if now < self.window_look {
            return;
        }
        // It looks at every lane, and under load a window fills up thousands of times a second.
        self.window_look = now + REPORT / 100;
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
        self.window_look = now + REPORT;
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
}
