//! What runs beside a partition's task, in places whose memory is used again.
//!
//! `FuturesUnordered` would cost each delivery that waits an allocation and a second poll: here a handler is polled
//! where its record was read with the waker of the place that it gets if it waits.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

use crate::sync::{AtomicBool, Mutex, Ordering};

/// Places that were woken since they were last looked at, in that order, and the task that looks at them.
#[derive(Debug, Default)]
struct Woken {
    places: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

impl Woken {
    fn push(&self, place: usize) {
        self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(place);
    }
}

#[derive(Debug)]
struct PlaceWaker {
    place: usize,
    /// Whether it is among those woken.
    told: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.told.swap(true, Ordering::AcqRel) {
            self.woken.push(self.place);
            self.woken.task.wake();
        }
    }
}

struct Place<F> {
    work: Option<F>,
    told: Arc<PlaceWaker>,
    waker: Waker,
}

/// Work under way.
pub(crate) struct InFlight<F> {
    places: Vec<Place<F>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    /// Those of this turn; kept for its memory.
    turn: Vec<usize>,
}

impl<F> InFlight<F> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), woken: Arc::default(), turn: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// The waker of the place that the next [`InFlight::insert`] fills.
    pub(crate) fn next_waker(&mut self) -> &Waker {
        let place = self.next_place();
        &self.places[place].waker
    }

    fn next_place(&mut self) -> usize {
        if let Some(place) = self.free.last() {
            return *place;
        }
        let place = self.places.len();
        let told =
            Arc::new(PlaceWaker { place, told: AtomicBool::new(false), woken: Arc::clone(&self.woken) });
        let waker = Waker::from(Arc::clone(&told));
        self.places.push(Place { work: None, told, waker });
        self.free.push(place);
        place
    }

    /// Takes in work that was polled with [`InFlight::next_waker`] and waits.
    pub(crate) fn insert(&mut self, work: F) {
        let place = self.next_place();
        self.free.pop();
        self.places[place].work = Some(work);
    }

    /// Takes in work that was not polled yet.
    pub(crate) fn push(&mut self, work: F) {
        let place = self.next_place();
        self.insert(work);
        self.places[place].waker.wake_by_ref();
    }

    /// Polls what was woken, by `poll`; gives what ended to `end`. Ready where something ended.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        mut poll: impl FnMut(&mut F, &mut Context<'_>) -> Poll<T>,
        mut end: impl FnMut(T),
    ) -> Poll<()> {
        self.woken.task.register(cx.waker());
        {
            let mut woken = self.woken.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::swap(&mut *woken, &mut self.turn);
        }
        let mut ended = Poll::Pending;
        for number in self.turn.drain(..) {
            let place = &mut self.places[number];
            // Before it is polled: what wakes it from here on must be looked at again.
            place.told.told.swap(false, Ordering::AcqRel);
            let Some(work) = &mut place.work else { continue };
            if let Poll::Ready(result) = poll(work, &mut Context::from_waker(&place.waker)) {
                place.work = None;
                self.free.push(number);
                end(result);
                ended = Poll::Ready(());
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    type Answer = oneshot::Receiver<u32>;

    async fn next(running: &mut InFlight<Answer>) -> Vec<u32> {
        let mut ended = Vec::new();
        poll_fn(|cx| {
            running.poll(
                cx,
                |answer, cx| answer.poll_unpin(cx).map(Result::unwrap),
                |number| ended.push(number),
            )
        })
        .await;
        ended
    }

    /// Red when `insert` fills another place than the one whose waker was given out.
    #[tokio::test]
    async fn work_that_was_polled_before_it_was_taken_in_is_woken() {
        let mut running = InFlight::new();
        for round in 0..3 {
            let (tell, mut answer) = oneshot::channel();
            assert!(answer.poll_unpin(&mut Context::from_waker(running.next_waker())).is_pending());
            if round == 1 {
                // Between its first poll and its place.
                tell.send(round).unwrap();
                running.insert(answer);
            } else {
                running.insert(answer);
                assert!(next(&mut running).now_or_never().is_none());
                tell.send(round).unwrap();
            }
            assert_eq!(next(&mut running).await, [round]);
            assert!(running.is_empty());
        }
        assert_eq!(running.places.len(), 1, "a place is used again");
    }

    /// Red when a wake that comes while a place is empty keeps its next work from being told.
    #[tokio::test]
    async fn a_late_wake_of_a_place_does_not_silence_its_next_work() {
        let mut running = InFlight::new();
        let old = running.next_waker().clone();
        let (tell, answer) = oneshot::channel();
        running.push(answer);
        tell.send(1).unwrap();
        assert_eq!(next(&mut running).await, [1]);
        old.wake_by_ref();
        let (tell, mut answer) = oneshot::channel();
        assert!(answer.poll_unpin(&mut Context::from_waker(running.next_waker())).is_pending());
        running.insert(answer);
        tell.send(2).unwrap();
        assert_eq!(next(&mut running).await, [2]);
        old.wake();
        assert!(next(&mut running).now_or_never().is_none());
    }
}
