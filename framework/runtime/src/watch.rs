//! How long handlers' polls take, at the price of a look at the clock for several of them.

use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::BLOCKED;

/// After how many polls the clock is read.
const POLLS_A_LOOK: usize = 8;

/// How many polls are watched one by one after a few took long together.
const WATCHED: u32 = 64;

/// Reads the clock once for a few polls; where they took long together, each of the next is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    looked: Instant,
    polls: usize,
    watched: u32,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { looked: Instant::now(), polls: 0, watched: 0 }
    }

    /// Polls follow; gives the time.
    pub(crate) fn begin(&mut self) -> Instant {
        self.polls = 0;
        self.looked = Instant::now();
        self.looked
    }

    /// A poll follows. The time, where it was looked at.
    pub(crate) fn before(&mut self) -> Option<Instant> {
        let look = self.watched > 0 || self.polls.is_multiple_of(POLLS_A_LOOK) && self.polls > 0;
        self.polls += 1;
        look.then(|| self.look())
    }

    /// How long the poll took, where it was watched.
    pub(crate) fn after(&mut self) -> Option<Duration> {
        self.watched = self.watched.checked_sub(1)?;
        Some(self.looked.elapsed())
    }

    /// No poll follows for now.
    pub(crate) fn end(&mut self) {
        if self.polls > 0 {
            self.look();
        }
    }

    fn look(&mut self) -> Instant {
        let before = std::mem::replace(&mut self.looked, Instant::now());
        if self.looked - before >= BLOCKED && self.watched == 0 {
            self.watched = WATCHED;
        }
        self.looked
    }
}
