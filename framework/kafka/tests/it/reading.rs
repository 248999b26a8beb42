//! What only Kafka's partitions hold: transactions' markers, and what was rolled back.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, PartitionId, Start, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::cluster;

fn record(value: Vec<u8>) -> NewRecord {
    NewRecord {
        topic: TopicName::new("t").unwrap(),
        partition: Some(0),
        key: None,
        headers: Headers::default(),
        value: Some(value.into()),
        timestamp: Timestamp::from_millis(1_700_000_000_000),
    }
}

/// P10: a rebuild, a replay and the lag end where the log ends. Red when a reader's position stays before a marker, so
/// with `enable.partition.eof` off. P3, R8: what was rolled back is given to nobody, and the next transaction goes through.
/// Red when a refused one stays open, or what the client took back unsent ends the producer.
#[tokio::test]
async fn the_position_passes_the_marker_of_a_transaction() {
    let prefix = cluster::prefix();
    let url = format!("{}?{prefix}", cluster::url());
    let log: Arc<dyn CommitLog> = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
    let topic = TopicName::new("t").unwrap();
    let wire = format!("{}t", prefix.trim_start_matches("prefix="));
    let narrow = wire.replace(".t", ".narrow");
    let made = [
        NewTopic::new(&wire, 1, TopicReplication::Fixed(1)),
        NewTopic::new(&narrow, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "10000"),
    ];
    let admin: AdminClient<DefaultClientContext> = cluster::raw().create().unwrap();
    admin.create_topics(&made, &AdminOptions::new()).await.unwrap();
    // The controller has made them; the broker hears of it a little later.
    for name in ["t", "narrow"] {
        let name = TopicName::new(name).unwrap();
        let heard = async {
            while log.describe_topic(&name).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("the broker hears of it");
    }
    let partition = PartitionId { topic: topic.clone(), partition: 0 };
    let mut reader = log.cursor(&partition, Start::Earliest).await.unwrap();
    let mut producer = log.transactional_producer("x").await.unwrap();
    producer.commit(vec![record(b"one".to_vec()), record(b"two".to_vec())], None).await.unwrap();
    // The broker refuses the second: the first is in the partition, rolled back, and is nobody's.
    let elsewhere = |size| NewRecord { topic: TopicName::new("narrow").unwrap(), ..record(vec![b'x'; size]) };
    let refused =
        producer.commit(vec![record(b"never".to_vec()), elsewhere(20_000)], None).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::RecordTooLarge, "{refused}");
    // The client is out of step with the broker where that refused.
    producer.commit(vec![record(b"three".to_vec()), elsewhere(1)], None).await.unwrap();
    let end = log.end_offsets(&topic).await.unwrap()[0];
    let mut values = Vec::new();
    let reading = async {
        while reader.position() < end {
            let batch = reader.read(100).await.unwrap();
            values.extend(Record::all(&batch).map(|record| record.value().unwrap().to_vec()));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the reader comes to the end");
    assert_eq!(values, [&b"one"[..], b"two", b"three"]);
    assert_eq!(reader.position(), end);
    assert!(end >= 7, "four records, and a marker for each transaction: {end}");
}

/// R3: what a transaction has written lies before the end, readable or not: who reads up to the end waits for it, and misses
/// nothing that was acknowledged and is not readable yet. Red when the end is that of what can be read.
#[tokio::test]
async fn what_a_transaction_has_under_way_lies_before_the_end() {
    let prefix = cluster::prefix();
    let url = format!("{}?{prefix}&partitions=2", cluster::url());
    let log: Arc<dyn CommitLog> = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
    let topic = TopicName::new("t").unwrap();
    log.ensure_topic(TopicSpec::new(topic.clone())).await.unwrap();
    let mut committed = log.transactional_producer("x").await.unwrap();
    committed.commit(vec![record(b"one".to_vec())], None).await.unwrap();
    let wire = prefix.trim_start_matches("prefix=");
    let raw: BaseProducer = cluster::raw().set("transactional.id", format!("{wire}y")).create().unwrap();
    raw.init_transactions(Duration::from_secs(30)).unwrap();
    raw.begin_transaction().unwrap();
    let name = format!("{wire}t");
    raw.send(BaseRecord::<(), [u8]>::to(&name).partition(0).payload(b"two")).unwrap();
    raw.flush(Duration::from_secs(30)).unwrap();
    let ends = async || log.end_offsets(&topic).await.unwrap();
    // A record and a marker, and behind them what nobody may read.
    assert_eq!(ends().await, [3, 0]);
    drop(log.transactional_producer("y").await.unwrap());
    assert_eq!(ends().await, [4, 0]);
}
