//! Places to run: at most so many handlers at once, over all partitions that this process has of a subscription.
//!
//! A place that comes free is taken up again by its own partition while that has no more than its share, so that the
//! end of a delivery wakes no other partition's task. Beyond the share it goes to who has waited longest; only what
//! handlers that do not wait hand on to each other stays in hand until the partition's turn is over.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aqueduct_core::BoxFuture;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place to run; free again when it is dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

/// All places of a subscription.
#[derive(Debug)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
    places: usize,
    /// Partitions that run here.
    partitions: AtomicUsize,
    /// Partitions that wait for a place.
    waiting: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(places));
        Arc::new(Self { permits, places, partitions: AtomicUsize::new(0), waiting: AtomicUsize::new(0) })
    }

    /// How many places a partition keeps for itself while others wait. Rounded down, so that not all places can be kept
    /// while somebody waits.
    fn share(&self) -> usize {
        self.places / self.partitions.load(Ordering::Relaxed).max(1)
    }
}

/// Counts a partition as waiting.
#[derive(Debug)]
struct Waiting(Arc<Pool>);

impl Waiting {
    fn new(pool: &Arc<Pool>) -> Self {
        pool.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pool))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The places of one partition.
pub(crate) struct Places {
    pool: Arc<Pool>,
    /// Given back within this turn, for what begins next in it: a place that went to another partition's task with each
    /// event would cost more than the events.
    in_hand: Option<Permit>,
    /// Given back by what ended, and neither taken up again nor let go.
    kept: Vec<Permit>,
    /// With what runs.
    taken: usize,
    /// Waited for, and got.
    granted: Option<Permit>,
    wanted: Option<BoxFuture<'static, Option<Permit>>>,
}

impl Places {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        pool.partitions.fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(pool),
            in_hand: None,
            kept: Vec::new(),
            taken: 0,
            granted: None,
            wanted: None,
        }
    }

    /// A place, if there is one for this partition now.
    pub(crate) fn take(&mut self) -> Option<Permit> {
        let permit = match self.in_hand.take().or_else(|| self.granted.take()) {
            Some(permit) => permit,
            None => {
                self.share();
                match self.kept.pop() {
                    Some(permit) => permit,
                    // It gives nothing while somebody waits in line.
                    None => Arc::clone(&self.pool.permits).try_acquire_owned().ok()?,
                }
            }
        };
        self.taken += 1;
        Some(permit)
    }

    /// What is kept goes to others, if they wait and this partition has its share.
    fn share(&mut self) {
        if self.pool.waiting.load(Ordering::Relaxed) > 0 && self.taken >= self.pool.share() {
            self.kept.clear();
        }
    }

    /// Takes a place back whose delivery ended where it began, within this turn.
    pub(crate) fn hand_back(&mut self, permit: Permit) {
        self.taken = self.taken.saturating_sub(1);
        self.kept.extend(self.in_hand.replace(permit));
    }

    /// This turn is over.
    pub(crate) fn end_turn(&mut self) {
        self.kept.extend(self.in_hand.take());
        self.share();
    }

    /// Takes a place back whose delivery ended or waits no more.
    pub(crate) fn give(&mut self, permit: Permit) {
        self.taken = self.taken.saturating_sub(1);
        self.kept.push(permit);
    }

    /// What it was taken for died with it.
    pub(crate) fn lost(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// Nothing is in line here: what is free is for others.
    pub(crate) fn let_go(&mut self) {
        self.in_hand = None;
        self.kept.clear();
        self.granted = None;
        self.wanted = None;
    }

    /// Gets in line for a place.
    pub(crate) fn want(&mut self) {
        let pool = &self.pool;
        self.wanted.get_or_insert_with(|| {
            let (waiting, permits) = (Waiting::new(pool), Arc::clone(&pool.permits));
            permits
                .acquire_owned()
                .map(move |acquired| {
                    drop(waiting);
                    acquired.ok()
                })
                .boxed()
        });
    }

    /// Whether a place is waited for.
    pub(crate) fn wants(&self) -> bool {
        self.wanted.is_some()
    }

    /// Waits for it; the next [`Places::take`] gives it. Dropping the future loses nothing.
    pub(crate) async fn got(&mut self) {
        if let Some(wanted) = &mut self.wanted {
            self.granted = wanted.await;
            self.wanted = None;
        }
    }

    /// Makes places that nobody allowed: for a planted bug.
    pub(crate) fn conjure(&self, places: usize) {
        self.pool.permits.add_permits(places);
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.pool.partitions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &mut Places, count: usize) -> Vec<Permit> {
        std::iter::from_fn(|| places.take()).take(count).collect()
    }

    /// P2. Red when `take` keeps what is beyond the share: the second partition then never gets a place.
    #[tokio::test]
    async fn a_busy_partition_leaves_others_their_share() {
        let pool = Pool::new(4);
        let (mut busy, mut other) = (Places::new(&pool), Places::new(&pool));
        let mut running = take(&mut busy, 9);
        assert_eq!((running.len(), other.take().is_none()), (4, true));
        other.want();
        assert!(other.got().now_or_never().is_none());
        for others in 1..=2 {
            busy.give(running.pop().unwrap());
            assert!(busy.take().is_none(), "{} run, the share is two: this place is for others", 4 - others);
            other.got().await;
            running.insert(0, other.take().unwrap());
            other.want();
            assert!(other.got().now_or_never().is_none());
        }
        busy.give(running.pop().unwrap());
        assert!(busy.take().is_some(), "one runs: the second place is its own, although another waits");
    }

    /// P2. Red when `end_turn` keeps what is beyond the share: who waits then never gets it. And when `take` shares what is in
    /// hand, each event goes through another task.
    #[tokio::test]
    async fn a_place_stays_for_a_turn_and_no_longer() {
        let pool = Pool::new(1);
        let (mut busy, mut other) = (Places::new(&pool), Places::new(&pool));
        let first = busy.take().unwrap();
        other.want();
        assert!(other.got().now_or_never().is_none());
        busy.hand_back(first);
        for _ in 0..3 {
            let next = busy.take().expect("its turn goes on");
            busy.hand_back(next);
        }
        assert!(other.got().now_or_never().is_none());
        busy.end_turn();
        assert!(busy.take().is_none());
        other.got().await;
        assert!(other.take().is_some());
    }

    /// Red when `let_go` forgets the place that was waited for, or stays in line.
    #[tokio::test]
    async fn who_needs_no_place_stands_in_nobodys_way() {
        let pool = Pool::new(1);
        let (mut one, mut two) = (Places::new(&pool), Places::new(&pool));
        let permit = one.take().unwrap();
        two.want();
        assert!(two.got().now_or_never().is_none());
        two.let_go();
        assert!(!two.wants());
        one.give(permit);
        assert!(one.take().is_some(), "nobody waits");
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }
}
