//! Wall time and CPU time of this process: user and system, all threads.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What a run took.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    events: u64,
    wall_micros: u64,
    cpu_micros: u64,
}

/// Runs from [`Stopwatch::start`]; its clocks are those of `bench`.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    /// What it took until now.
    pub(crate) fn stop(&self, events: u64) -> Cost {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Cost { events, wall_micros: micros(self.wall.elapsed()), cpu_micros: micros(cpu() - self.cpu) }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // A CPU clock is never negative.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
