//! Writes observations: whole lines, appended, so that neither a kill nor another writer tears one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Mutex,
};

use rustix::time::{ClockId, clock_gettime};

use crate::observation::{Line, Observation};

/// Microseconds of the host's boot-time clock: one for all its processes, and never set back.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1_000;
    u64::try_from(micros).unwrap_or(0)
}

/// What to add to a wall time, in microseconds since 1970, to have one of [`now`]'s clock.
///
/// # Errors
/// The host's clock stands before 1970.
pub fn boot_minus_wall() -> Result<i128, std::time::SystemTimeError> {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    Ok(i128::from(now()).saturating_sub_unsigned(wall))
}

/// The file of one process.
#[derive(Debug)]
pub struct Recorder {
    by: String,
    file: Mutex<File>,
}

impl Recorder {
    /// Opens, or makes, the file for the process `by`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, by: &str) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { by: by.to_owned(), file: Mutex::new(file) })
    }

    /// Writes `saw` as of now.
    ///
    /// # Errors
    /// The file cannot be written: the run proves nothing any more.
    pub fn write(&self, saw: Observation) -> io::Result<()> {
        self.write_as(now(), &self.by, saw)
    }

    /// Writes `saw` as of `at`, seen by `by`.
    ///
    /// # Errors
    /// As [`Recorder::write`].
    pub fn write_as(&self, at: u64, by: &str, saw: Observation) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { at, by: by.to_owned(), saw })?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // One write call: a killed process leaves a whole line or none.
        file.write_all(&line)
    }
}
