//! Wall time and CPU time of this process: user and system, all threads.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What a run took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// Events of the run.
    pub events: u64,
    /// Wall time in seconds.
    pub wall: f64,
    /// CPU time in seconds.
    pub cpu: f64,
}

impl Cost {
    /// Events per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.wall
    }

    /// CPU microseconds per event.
    #[must_use]
    pub fn micros(&self) -> f64 {
        self.cpu * 1e6 / self.events as f64
    }
}

/// Runs from [`Stopwatch::start`].
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    /// What it took until now.
    #[must_use]
    pub fn stop(&self, events: u64) -> Cost {
        Cost { events, wall: self.wall.elapsed().as_secs_f64(), cpu: (cpu() - self.cpu).as_secs_f64() }
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // A CPU clock is never negative.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
