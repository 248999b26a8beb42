//! What runs beside a partition's task, in places whose memory is used again.
//!
//! `FuturesUnordered` would cost each delivery that waits an allocation and a second poll: here a handler is polled
//! where its record was read with the waker of the place that it gets if it waits.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::{
    admission::BUDGET,
    sync::{AtomicBool, Mutex, Ordering},
};

/// How often one poll goes back to what was woken meanwhile.
const ROUNDS: usize = 64;

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
    ///
    /// What is woken meanwhile is polled in the same go: a turn at a database goes from one delivery to the next without a
    /// way through the scheduler. It has a bound of rounds and of time, since a drain is only seen after it.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        mut poll: impl FnMut(&mut F, &mut Context<'_>) -> Poll<T>,
        mut end: impl FnMut(T),
    ) -> Poll<()> {
        // While this task is at it nobody need wake it.
        drop(self.woken.task.take());
        let (mut ended, began) = (Poll::Pending, Instant::now());
        for _ in 0..ROUNDS {
            if !self.next_turn() {
                if ended.is_ready() {
                    return ended;
                }
                self.woken.task.register(cx.waker());
                // Woken before that, it has woken nobody.
                if !self.next_turn() {
                    return Poll::Pending;
                }
            }
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
            if began.elapsed() > BUDGET {
                break;
            }
        }
        // Others have their turn first.
        cx.waker().wake_by_ref();
        ended
    }

    /// Takes over what was woken since.
    fn next_turn(&mut self) -> bool {
        let mut woken = self.woken.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::swap(&mut *woken, &mut self.turn);
        !self.turn.is_empty()
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

    /// Red when `poll` goes through what was woken only once: the chain then takes a poll for each of its links.
    #[tokio::test(start_paused = true)]
    async fn a_turn_goes_from_one_to_the_next_within_one_poll() {
        let mut running = InFlight::new();
        for link in 0..5_usize {
            assert_eq!(running.next_place(), link);
            running.insert(link);
        }
        let wakers: Vec<Waker> = running.places.iter().map(|place| place.waker.clone()).collect();
        wakers[0].wake_by_ref();
        let (mut polled, mut over) = (Vec::new(), Vec::new());
        let ended = running.poll(
            &Context::from_waker(Waker::noop()),
            |link, _| {
                polled.push(*link);
                wakers.get(*link + 1).inspect(|next| next.wake_by_ref());
                Poll::Ready(*link)
            },
            |link| over.push(link),
        );
        assert!(ended.is_ready() && running.is_empty());
        assert_eq!((polled, over), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]));
    }

    /// Red when the rounds of one poll have no bound: it then never returns; or when nobody is woken at the bound.
    #[tokio::test(start_paused = true)]
    async fn work_that_wakes_itself_for_ever_lets_others_have_a_turn() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut running = InFlight::new();
        running.push(());
        let woken = Arc::new(Count(0.into()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut polls = 0;
        let ended = running.poll(
            &Context::from_waker(&waker),
            |(), cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            },
            |()| {},
        );
        assert!(ended.is_pending());
        assert_eq!((polls, woken.0.load(Ordering::Relaxed)), (ROUNDS, 1));
    }

    /// P9: handlers that block must not keep a drain from being seen. Red when `poll` does not look at the clock.
    #[test]
    fn rounds_that_take_long_let_others_have_a_turn() {
        let mut running = InFlight::new();
        (0..10).for_each(|_| running.insert(()));
        let wakers: Vec<Waker> = running.places.iter().map(|place| place.waker.clone()).collect();
        wakers[0].wake_by_ref();
        let mut polls = 0;
        let ended = running.poll(
            &Context::from_waker(Waker::noop()),
            |(), _| {
                polls += 1;
                wakers.get(polls).inspect(|next| next.wake_by_ref());
                std::thread::sleep(BUDGET / 2);
                Poll::Ready(())
            },
            |()| {},
        );
        assert!(ended.is_ready() && polls <= 2, "{polls} polls of half the time each");
    }
}
