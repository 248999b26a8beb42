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
