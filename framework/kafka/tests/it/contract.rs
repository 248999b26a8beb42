//! The contract of every commit log.

use std::sync::Arc;

use aqueduct_core::log::CommitLog;
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

async fn open(prefix: &str) -> Arc<dyn CommitLog> {
    let options = KafkaOptions::parse(&format!("{}?partitions=4&{prefix}", cluster::url())).unwrap();
    KafkaLog::connect(options).await.unwrap()
}

async fn make() -> (Arc<dyn CommitLog>, ()) {
    (open(&cluster::prefix()).await, ())
}

aqueduct_testkit::contract_tests!(make);

mod shared {
    use super::*;

    /// Two connections have nothing in common but the cluster, as two processes.
    async fn make() -> ([Arc<dyn CommitLog>; 2], ()) {
        let prefix = cluster::prefix();
        ([open(&prefix).await, open(&prefix).await], ())
    }

    aqueduct_testkit::shared_group_tests!(make);
}

/// Groups that are assigned by their broker (KIP-848).
mod coordinated {
    use super::*;

    async fn open(prefix: &str) -> Arc<dyn CommitLog> {
        super::open(&format!("{prefix}&group.protocol=consumer")).await
    }

    async fn make() -> (Arc<dyn CommitLog>, ()) {
        (open(&cluster::prefix()).await, ())
    }

    aqueduct_testkit::contract_tests!(make);

    mod shared {
        use super::*;

        async fn make() -> ([Arc<dyn CommitLog>; 2], ()) {
            let prefix = cluster::prefix();
            ([open(&prefix).await, open(&prefix).await], ())
        }

        aqueduct_testkit::shared_group_tests!(make);
    }
}
