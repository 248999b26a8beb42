//! Virtual time: tokio's paused clock, told as a date.

use std::time::Duration;

use aqueduct_core::{Timestamp, environment::Clock};
use tokio::time::Instant;

/// When every run begins: 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600_000_000;

/// The clock of a run.
#[derive(Debug, Clone, Copy)]
pub struct VirtualClock {
    start: Instant,
}

impl VirtualClock {
    /// Begins now, in a runtime whose clock is paused.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the beginning of the run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The moment so long after the beginning.
    #[must_use]
    pub fn at(&self, after: Duration) -> Instant {
        self.start + after
    }

    /// How long after the beginning a time of this clock was.
    #[must_use]
    pub fn since(time: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(time.as_micros() - BEGINNING).unwrap_or(0))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let micros = i64::try_from(self.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(BEGINNING.saturating_add(micros))
    }
}
