//! Topics as they are declared.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    LogErrorKind, TopicName,
    log::{CommitLog, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

async fn open(parameters: &str) -> Arc<dyn CommitLog> {
    let url = format!("{}?{}&{parameters}", cluster::url(), cluster::prefix());
    KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap()
}

/// Red when a part of the declaration is not sent to the cluster, or not read back from it.
#[tokio::test]
async fn a_topic_is_made_as_declared_and_what_is_there_is_compared() {
    let log = open("partitions=3").await;
    let declared = TopicSpec {
        partitions: Some(5),
        retention: Some(Duration::from_secs(3_600)),
        retention_bytes: Some(1 << 30),
        compacted: true,
        replication: Some(1),
        min_insync_replicas: Some(1),
        ..TopicSpec::new(TopicName::new("declared").unwrap())
    };
    let made = log.ensure_topic(declared.clone()).await.unwrap();
    assert_eq!(made.spec, declared);
    // Another declaration changes nothing, and shows.
    let other = TopicSpec {
        partitions: Some(6),
        min_insync_replicas: Some(2),
        ..TopicSpec::new(declared.name.clone())
    };
    let found = log.ensure_topic(other.clone()).await.unwrap();
    assert_eq!(found, made);
    assert_eq!(
        other.differences(&found.spec),
        [
            "partitions: 5, declared 6",
            "min.insync.replicas: 1, declared 2",
            "records are kept for 3600 s, declared for ever",
            "a partition keeps 1073741824 bytes, declared all",
            "of a key's records it keeps the last of each key, declared all",
        ]
    );
    let defaults = log.ensure_topic(TopicSpec::new(TopicName::new("defaults").unwrap())).await.unwrap();
    let is = |spec: &TopicSpec| (spec.partitions, spec.retention, spec.replication, spec.min_insync_replicas);
    assert_eq!(is(&defaults.spec), (Some(3), None, Some(1), Some(1)));
}

/// P12. Red when a topic that the cluster cannot make is tried again for ever, or its name is not said.
#[tokio::test]
async fn a_topic_that_cannot_be_made_is_named() {
    let name = || TopicSpec::new(TopicName::new("t").unwrap());
    let error = open("").await.ensure_topic(TopicSpec { replication: Some(9), ..name() }).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Configuration);
    assert!(error.to_string().starts_with("cannot make topic t: "), "{error}");
    let error = open("create_topics=false").await.ensure_topic(name()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::TopicMissing);
    assert_eq!(error.to_string(), "topic t does not exist, and create_topics is false");
}
