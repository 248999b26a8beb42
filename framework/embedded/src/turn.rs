//! Whose turn it is to write, among processes. Two lock files make it fair: who waits holds the queue, so that the
//! process that just wrote cannot write again before it.
//!
//! A process that is stopped while it stands in the queue does not write, so it must not hold up those behind it: they
//! wait for the queue with an end, on a thread that the kernel wakes, and pass it by when nobody writes.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    file::{beside, lock_file, try_lock, write_pid},
    shared::{Shared, lock},
};

/// How long to stand behind a process before looking whether anybody writes at all.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same while the process in front is known not to move.
const IMPATIENCE: Duration = Duration::from_millis(5);

/// The two lock files, `<path>.queue` and `<path>.writer`.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: File,
    behind: Arc<Behind>,
    /// Whether the last wait ended by passing the queue.
    passed: AtomicBool,
    writer: File,
}

impl Turn {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let queue = beside(path, ".queue");
        Ok(Self {
            behind: Arc::new(Behind {
                file: lock_file(&queue)?,
                state: Mutex::new(State::Away),
                moved: Condvar::new(),
            }),
            queue: lock_file(&queue)?,
            passed: AtomicBool::new(false),
            writer: lock_file(&beside(path, ".writer"))?,
        })
    }

    /// Waits for the turn. The wait is noted where the reader's thread sees it and names the holder.
    pub(crate) fn take(&self, shared: &Shared) -> io::Result<Turned<'_>> {
        let result = self.wait(shared);
        *lock(&shared.lock_wait) = None;
        result
    }

    fn wait(&self, shared: &Shared) -> io::Result<Turned<'_>> {
        let queued = if try_lock(&self.queue)? { Some(&self.queue) } else { self.stand_behind(shared)? };
        if let Some(queue) = queued {
            let taken = wait_for(&self.writer, shared);
            queue.unlock()?;
            self.passed.store(false, Ordering::Relaxed);
            taken?;
        }
        let turned = Turned(&self.writer);
        write_pid(&self.writer)?;
        Ok(turned)
    }

    /// Gives the queue when this process is at its head, or none when it has the writer's lock without it.
    fn stand_behind(&self, shared: &Shared) -> io::Result<Option<&File>> {
        lock(&shared.lock_wait).get_or_insert_with(Instant::now);
        loop {
            let patience = if self.passed.load(Ordering::Relaxed) { IMPATIENCE } else { PATIENCE };
            if Behind::stand(&self.behind, patience)? {
                return Ok(Some(&self.behind.file));
            }
            if try_lock(&self.writer)? {
                self.passed.store(true, Ordering::Relaxed);
                return Ok(None);
            }
        }
    }
}

fn wait_for(file: &File, shared: &Shared) -> io::Result<()> {
    if try_lock(file)? {
        return Ok(());
    }
    lock(&shared.lock_wait).get_or_insert_with(Instant::now);
    file.lock()
}

/// A place behind the head of the queue. A thread holds it, because only a blocked thread is woken by a lock.
#[derive(Debug)]
struct Behind {
    file: File,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
enum State {
    /// Nobody stands there.
    Away,
    /// A thread waits for the head; whether its process still wants it.
    Standing { wanted: bool },
    /// The head is ours.
    Head,
    /// The wait failed.
    Failed(io::Error),
}

impl Behind {
    /// Stands in the queue for so long. Whether this process is at its head now; if not, the place is kept.
    fn stand(this: &Arc<Self>, patience: Duration) -> io::Result<bool> {
        let mut state = lock(&this.state);
        if !matches!(*state, State::Standing { .. }) {
            let thread = Arc::clone(this);
            std::thread::Builder::new().name("aqueduct-queue".to_owned()).spawn(move || thread.wait())?;
        }
        *state = State::Standing { wanted: true };
        let standing = |state: &mut State| matches!(state, State::Standing { .. });
        let (mut state, _) =
            this.moved.wait_timeout_while(state, patience, standing).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Away) {
            State::Head => Ok(true),
            State::Failed(error) => Err(error),
            State::Standing { .. } => {
                *state = State::Standing { wanted: false };
                Ok(false)
            }
            // Whoever waits stands there.
            State::Away => Ok(false),
        }
    }

    fn wait(&self) {
        let locked = self.file.lock();
        let mut state = lock(&self.state);
        *state = match (locked, &*state) {
            (Err(error), _) => State::Failed(error),
            (Ok(()), State::Standing { wanted: true }) => State::Head,
            // Its process has passed the queue and does not stand there any more.
            (Ok(()), _) => self.file.unlock().map_or_else(State::Failed, |()| State::Away),
        };
        self.moved.notify_all();
    }
}

/// The turn; dropping it gives it on.
#[derive(Debug)]
pub(crate) struct Turned<'a>(&'a File);

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "embedded log: the write lock could not be given back");
        }
    }
}
