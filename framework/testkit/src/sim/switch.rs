//! A state that tasks wait for. Not tokio's `watch`: that wakes its receivers in a random order, and a run with a seed
//! must replay.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Switch<T> {
    state: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Switch<T> {
    pub(crate) fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> T {
        *self.lock()
    }

    /// Changes it, and wakes who waits, first come, first served.
    pub(crate) fn change(&self, change: impl FnOnce(T) -> T) {
        {
            let mut state = self.lock();
            *state = change(*state);
        }
        self.changed.notify_waiters();
    }

    /// Waits until it is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(T) -> bool) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before looking, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            let state = self.get();
            if wanted(state) {
                return state;
            }
            changed.await;
        }
    }
}
