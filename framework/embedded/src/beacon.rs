//! Member files: how processes see of each other that they live (by the lock) and run (by the heartbeat).
//!
//! One file per instance that has members, `<path>.member.<token>`. It is locked before any row names it, so a row whose
//! file is missing or not locked is of a process that was killed. The heartbeat is written without sync: after a power
//! failure nobody holds the lock. A token is never given twice.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aqueduct_core::Environment;
use rustix::time::{ClockId, clock_gettime};

use crate::file::{beside, try_lock};

/// The time since the machine was started, its sleep included: the same for all its processes, and not set by anyone.
pub(crate) fn boot_clock() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// This instance's own member file.
#[derive(Debug)]
pub(crate) struct Beacon {
    file: File,
    path: PathBuf,
    token: String,
}

impl Beacon {
    /// Makes the file, locks it, and notes the first heartbeat.
    pub(crate) fn light(log: &Path, environment: &Environment) -> io::Result<Self> {
        let (id, process) = (environment.new_id().simple().to_string(), std::process::id());
        let mut number = 0_u32;
        loop {
            let token = format!("{id}.{process}.{number}");
            let path = name(log, &token);
            number += 1;
            let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            file.lock()?;
            let beacon = Self { file, path, token };
            // A sweeper may have found the file before it was locked.
            if beacon.is_in_place()? {
                beacon.beat()?;
                return Ok(beacon);
            }
        }
    }

    /// Whether the others find the file where its token says.
    pub(crate) fn is_in_place(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(found) => Ok(found.ino() == self.file.metadata()?.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What rows of members name the file by.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Notes that this process runs.
    pub(crate) fn beat(&self) -> io::Result<()> {
        self.file.write_all_at(&heartbeat(boot_clock()), 0)
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        // Locked to the end, so nobody else removes it at the same time.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, file = %self.path.display(), "a member file could not be removed");
        }
    }
}

/// What another process's member file says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs.
    Runs,
    /// It lives, and has not run for so long.
    Silent(Duration),
    /// It was killed, or has ended.
    Dead,
}

/// Looks at the member file of another instance.
pub(crate) fn look(log: &Path, token: &str, session: Duration, now: Duration) -> io::Result<Life> {
    let file = match OpenOptions::new().read(true).write(true).open(name(log, token)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Life::Dead),
        file => file?,
    };
    if try_lock(&file)? && !aqueduct_core::planted("embedded-kill-not-seen") {
        return Ok(Life::Dead);
    }
    let mut bytes = [0; HEARTBEAT];
    let read = file.read_at(&mut bytes, 0)?;
    // Half of it, or a clock of before the machine was started anew: the lock is held, so the next one comes.
    let Some(beat) = parse(&bytes[..read]) else { return Ok(Life::Runs) };
    let age = now.saturating_sub(beat);
    let expired = age > session && !aqueduct_core::planted("embedded-pause-not-seen");
    Ok(if expired { Life::Silent(age) } else { Life::Runs })
}

/// Removes the member files of processes that are no more.
pub(crate) fn sweep(log: &Path) -> io::Result<()> {
    let (Some(directory), Some(prefix)) = (log.parent(), name(log, "").file_name().map(ToOwned::to_owned))
    else {
        return Ok(());
    };
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            continue;
        }
        match remove_if_dead(&entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // Removed under the lock: who has just made it looks again once it has the lock.
    if try_lock(&file)? { fs::remove_file(path) } else { Ok(()) }
}

fn name(log: &Path, token: &str) -> PathBuf {
    beside(log, &format!(".member.{token}"))
}

const HEARTBEAT: usize = 12;

fn heartbeat(now: Duration) -> [u8; HEARTBEAT] {
    let mut bytes = [0; HEARTBEAT];
    bytes[..8].copy_from_slice(&millis(now).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<Duration> {
    let beat = bytes.first_chunk::<8>()?;
    let crc = bytes.get(8..)?.first_chunk::<4>()?;
    let millis = u64::try_from(i64::from_le_bytes(*beat)).ok()?;
    (crc32fast::hash(beat) == u32::from_le_bytes(*crc)).then(|| Duration::from_millis(millis))
}

/// Whole milliseconds, as they are stored.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use aqueduct_core::environment::{Random, SystemClock};

    use super::*;

    struct Zero;
    impl Random for Zero {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    const SESSION: Duration = Duration::from_secs(5);

    /// R7. Red when `look` takes a held lock for a dead process, compares no clock, or a free lock for a living one.
    #[test]
    fn a_member_lives_by_its_lock_and_runs_by_its_heartbeat() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log.db");
        let beacon = Beacon::light(&log, &Environment::new(SystemClock, Zero)).unwrap();
        let token = beacon.token().to_owned();
        let now = boot_clock();
        assert_eq!(look(&log, &token, SESSION, now).unwrap(), Life::Runs);
        let later = now + SESSION * 2;
        assert!(matches!(look(&log, &token, SESSION, later).unwrap(), Life::Silent(age) if age > SESSION));
        // A clock that starts anew: the lock decides.
        assert_eq!(look(&log, &token, SESSION, Duration::ZERO).unwrap(), Life::Runs);
        sweep(&log).unwrap();
        assert!(name(&log, &token).exists(), "a living process keeps its file");
        let killed = name(&log, "killed");
        fs::write(&killed, heartbeat(now)).unwrap();
        assert_eq!(look(&log, "killed", SESSION, now).unwrap(), Life::Dead);
        sweep(&log).unwrap();
        assert!(!killed.exists());
        drop(beacon);
        assert_eq!(look(&log, &token, SESSION, now).unwrap(), Life::Dead);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
