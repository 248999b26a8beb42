//! Whose turn it is to write, among processes. Two lock files make it fair: who waits holds the queue, so that the
//! process that just wrote cannot write again before it.

use std::{fs::File, io, path::Path, time::Instant};

use crate::{
    file::{beside, lock_file, try_lock, write_pid},
    shared::{Shared, lock},
};

/// The two lock files, `<path>.queue` and `<path>.writer`.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: File,
    writer: File,
}

impl Turn {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { queue: lock_file(&beside(path, ".queue"))?, writer: lock_file(&beside(path, ".writer"))? })
    }

    /// Waits for the turn. The wait is noted where the reader's thread sees it and names the holder.
    pub(crate) fn take(&self, shared: &Shared) -> io::Result<Turned<'_>> {
        let result = self.wait(shared);
        *lock(&shared.lock_wait) = None;
        result
    }

    fn wait(&self, shared: &Shared) -> io::Result<Turned<'_>> {
        wait_for(&self.queue, shared)?;
        let taken = wait_for(&self.writer, shared);
        self.queue.unlock()?;
        taken?;
        let turned = Turned(&self.writer);
        write_pid(&self.writer)?;
        Ok(turned)
    }
}

fn wait_for(file: &File, shared: &Shared) -> io::Result<()> {
    if try_lock(file)? {
        return Ok(());
    }
    lock(&shared.lock_wait).get_or_insert_with(Instant::now);
    file.lock()
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
