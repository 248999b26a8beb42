//! What only groups that are assigned by their broker (KIP-848) could break.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, NewRecord, Timestamp, TopicName,
    log::{Assignment, CommitLog, Consumer, PartitionId, Settlement, Signal, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

/// Some heartbeats.
const WHILE: Duration = Duration::from_secs(3);

async fn open(prefix: &str, partitions: i32) -> Arc<dyn CommitLog> {
    open_in("consumer", prefix, partitions).await
}

async fn open_in(protocol: &str, prefix: &str, partitions: i32) -> Arc<dyn CommitLog> {
    let url = format!("{}?{prefix}&group.protocol={protocol}", cluster::url());
    let log: Arc<dyn CommitLog> = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
    log.ensure_topic(TopicSpec { partitions: Some(partitions), ..TopicSpec::new(topic()) }).await.unwrap();
    log
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

async fn join(log: &Arc<dyn CommitLog>) -> Arc<dyn Consumer> {
    log.consumer("g", &[topic()]).await.unwrap()
}

async fn signal(consumer: &Arc<dyn Consumer>) -> Signal {
    tokio::time::timeout(Duration::from_secs(30), consumer.signal()).await.expect("a signal").unwrap()
}

async fn assigned(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Assignment> {
    let mut all = Vec::new();
    while all.len() < count {
        match signal(consumer).await {
            Signal::Assigned(given) => all.extend(given),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// R2. Another member's coming moves the number of this one's generation, and it is not told. On Apache Kafka 4.3 the older
/// number would do (KIP-1251); on brokers before it this is red when a transaction proves the number of the last
/// assignment, which nobody has tried.
#[tokio::test]
async fn a_generation_that_moved_without_a_word_still_commits() {
    let prefix = cluster::prefix();
    let log = open(&prefix, 1).await;
    let owner = join(&log).await;
    let assignment = assigned(&owner, 1).await.remove(0);
    let record = |number: u8| NewRecord {
        topic: topic(),
        partition: Some(0),
        key: None,
        headers: Headers::default(),
        value: Some(vec![number].into()),
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    };
    let mut producer = log.transactional_producer("x").await.unwrap();
    producer.commit(vec![record(0), record(1)], None).await.unwrap();
    let other = open(&prefix, 1).await;
    let _idle = join(&other).await;
    tokio::time::sleep(WHILE).await;
    let settlement = |offset| Settlement {
        partition: assignment.partition.clone(),
        generation: assignment.generation,
        offset,
        metadata: String::new(),
    };
    let token = owner.group_token();
    producer.commit(vec![record(2)], Some((token, vec![settlement(1)]))).await.unwrap();
    owner.settle(vec![settlement(2)]).await.remove(0).unwrap();
    let settled = log.settled_offsets("g", &topic()).await.unwrap().remove(0).unwrap();
    assert_eq!(settled.offset, 2);
}

/// R2. Red when `on_revoked` says that nothing has to be waited for: two members own a partition.
#[tokio::test]
async fn what_is_revoked_is_nobody_elses_before_the_answer() {
    give_back("consumer").await;
}

/// As above, where a member assigns.
#[tokio::test]
async fn what_is_revoked_in_the_classic_protocol_is_nobody_elses_before_the_answer() {
    give_back("classic").await;
}

async fn give_back(protocol: &str) {
    let prefix = cluster::prefix();
    let log = open_in(protocol, &prefix, 2).await;
    let owner = join(&log).await;
    assigned(&owner, 2).await;
    let other = open_in(protocol, &prefix, 2).await;
    let newer = join(&other).await;
    let revoking: Vec<PartitionId> = match signal(&owner).await {
        Signal::Revoking(partitions) => partitions,
        other => panic!("{other:?}"),
    };
    assert_eq!(revoking.len(), 1);
    let early = tokio::time::timeout(WHILE, newer.signal()).await;
    assert!(early.is_err(), "given before it was given back: {early:?}");
    owner.revoked(&revoking);
    let given = assigned(&newer, 1).await;
    assert_eq!(given[0].partition, revoking[0]);
}
