//! The contract of every commit log.

use std::sync::Arc;

use aqueduct_core::log::CommitLog;
use aqueduct_memory::MemoryLog;

async fn make() -> (Arc<dyn CommitLog>, ()) {
    (Arc::new(MemoryLog::new(4)), ())
}

aqueduct_testkit::contract_tests!(make);
