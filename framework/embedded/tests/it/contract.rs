//! The contract of every commit log.

use std::sync::Arc;

use aqueduct_core::log::CommitLog;
use aqueduct_embedded::{EmbeddedLog, EmbeddedOptions};

use crate::tools::environment;

async fn make() -> (Arc<dyn CommitLog>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("log.db"), environment()).partitions(4);
    (EmbeddedLog::open(options).await.unwrap(), directory)
}

aqueduct_testkit::contract_tests!(make);

mod shared {
    use super::*;

    /// Two instances on one file tell each other apart as two processes do: by their locks, and through the database.
    async fn make() -> ([Arc<dyn CommitLog>; 2], tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let options = || EmbeddedOptions::new(directory.path().join("log.db"), environment()).partitions(4);
        let here = EmbeddedLog::open(options()).await.unwrap();
        let there = EmbeddedLog::open(options().apart()).await.unwrap();
        ([here, there], directory)
    }

    aqueduct_testkit::shared_group_tests!(make);
}
