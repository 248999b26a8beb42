//! Which files this process has open: a second write connection to one file would wait for the first one's turns.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

static OPEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

/// Given up when the write connection is closed.
#[derive(Debug)]
pub(super) struct OpenFile(PathBuf);

impl OpenFile {
    /// None where the file is open already.
    pub(super) fn register(canonical: &Path) -> Option<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.get_or_insert_default().insert(canonical.to_path_buf()).then(|| Self(canonical.to_path_buf()))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(open) = &mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner) {
            open.remove(&self.0);
        }
    }
}
