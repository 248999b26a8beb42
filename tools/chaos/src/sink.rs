//! Where a process puts what it sees.

use std::{path::Path, sync::Arc};

use checker::{Observation, Recorder};

/// Takes observations.
#[derive(Debug, Clone)]
pub(crate) struct Sink(Arc<Recorder>);

impl Sink {
    pub(crate) fn file(path: &Path, by: &str) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Recorder::open(path, by)?)))
    }

    pub(crate) fn see(&self, saw: Observation) {
        if let Err(error) = self.0.write(saw) {
            // A process whose steps are not written down would make the run a lie.
            eprintln!("cannot write what was seen: {error}");
            std::process::abort();
        }
    }
}
