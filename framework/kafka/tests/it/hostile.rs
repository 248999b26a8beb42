//! What others do to a cluster that we use: records that are not ours, groups of another protocol, batches that grow.

use std::{
    io::Write,
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use aqueduct::{App, Handled, State, Subscription, prelude::*};
use aqueduct_core::{
    LogErrorKind, Record, TopicName,
    log::{CommitLog, PartitionId, Start, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::cluster;

fn admin() -> AdminClient<DefaultClientContext> {
    cluster::raw().create().unwrap()
}

/// A log whose names begin with this prefix in the cluster.
async fn log() -> (Arc<dyn CommitLog>, String) {
    let prefix = cluster::prefix();
    let url = format!("{}?{prefix}", cluster::url());
    let log = KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
    (log, prefix.trim_start_matches("prefix=").to_owned())
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

async fn make(log: &Arc<dyn CommitLog>) -> PartitionId {
    log.ensure_topic(TopicSpec { partitions: Some(1), ..TopicSpec::new(topic()) }).await.unwrap();
    PartitionId { topic: topic(), partition: 0 }
}

/// P12. Red when connecting waits for a service that is no Kafka, or does not say what to look at.
#[tokio::test]
async fn a_port_of_another_service_is_said_within_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let began = Instant::now();
    let options = KafkaOptions::parse(&format!("kafka://127.0.0.1:{port}")).unwrap();
    let error = KafkaLog::connect(options).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let text = error.to_string();
    assert!(text.contains(&port.to_string()) && text.contains("security.protocol"), "{text}");
}

/// Red when a group whose members share partitions in another way is waited for, or its name is not said.
#[tokio::test]
async fn a_group_with_another_protocol_is_said() {
    let (log, prefix) = log().await;
    make(&log).await;
    let mut config = cluster::raw();
    config.set("group.id", format!("{prefix}g")).set("partition.assignment.strategy", "range");
    let other: Arc<BaseConsumer> = Arc::new(config.create().unwrap());
    other.subscribe(&[&format!("{prefix}t")]).unwrap();
    let polled = Arc::downgrade(&other);
    thread::spawn(move || {
        while let Some(other) = polled.upgrade() {
            let _ = other.poll(Duration::from_millis(100));
        }
    });
    while other.assignment().unwrap().count() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let member = log.consumer("g", &[topic()]).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), member.signal()).await.expect("an answer");
    let error = told.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::GroupInUse);
    assert!(error.to_string().contains("group g"), "{error}");
}

/// R2. Red when reading goes on where the log begins now, without a word about what is missing.
#[tokio::test]
async fn an_offset_that_no_longer_exists_is_said_with_what_there_is() {
    let (log, prefix) = log().await;
    let partition = make(&log).await;
    let producer: BaseProducer = cluster::raw().create().unwrap();
    for number in 0..10 {
        let value = number.to_string();
        producer.send(BaseRecord::<(), _>::to(&format!("{prefix}t")).payload(&value)).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&format!("{prefix}t"), 0, Offset::Offset(6)).unwrap();
    admin().delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut reader = log.cursor(&partition, Start::Offset(2)).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(20), reader.read(10)).await.expect("an answer");
    let error = read.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::OffsetOutOfRange { first: 6, end: 10 });
    assert_eq!(error.to_string(), "t/0 has offsets from 6 to before 10, not 2");
    let mut reader = log.cursor(&partition, Start::Earliest).await.unwrap();
    assert_eq!(Record::all(&reader.read(10).await.unwrap()).next().map(|record| record.offset()), Some(6));
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "hostile.Sold", topic = "t", key = basket)]
struct Sold {
    basket: String,
}

type Seen = Arc<Mutex<Vec<String>>>;

async fn handle(sold: Sold, State(seen): State<Seen>) -> Handled {
    seen.lock().unwrap().push(sold.basket);
    Ok(())
}

/// P7. Red when a record that nobody here can read ends its partition, holds others up, or goes without its reason.
#[tokio::test]
async fn a_record_that_is_not_ours_is_set_aside_with_its_reason() {
    let prefix = cluster::prefix();
    let bus = aqueduct::connect(&format!("{}?{prefix}&partitions=1", cluster::url())).await.unwrap();
    make(bus.log()).await;
    let wire = format!("{}t", prefix.trim_start_matches("prefix="));
    let producer: BaseProducer = cluster::raw().create().unwrap();
    producer.send(BaseRecord::<[u8], _>::to(&wire).payload(&[0xff, 0x00, 0xfe])).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    bus.publish(&Sold { basket: "b1".to_owned() }).await.unwrap();
    let seen = Seen::default();
    let app = App::builder("hostile").log(&bus).state(Arc::clone(&seen));
    let app = app.subscribe(Subscription::builder("hostile").on(handle)).build().unwrap();
    let status = app.status();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(stopped));
    for _ in 0..600 {
        if seen.lock().unwrap().len() == 1 && status.subscriptions()[0].dead_letters == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*seen.lock().unwrap(), ["b1"]);
    assert_eq!(status.subscriptions()[0].dead_letters, 1, "{:?}", status.subscriptions());
    let dead = PartitionId { topic: TopicName::new("hostile.t.dead").unwrap(), partition: 0 };
    let mut reader = bus.log().cursor(&dead, Start::Earliest).await.unwrap();
    let letter = Record::all(&reader.read(1).await.unwrap()).next().unwrap();
    assert_eq!(letter.value(), Some(&[0xff, 0x00, 0xfe][..]));
    let mut reason = None;
    letter.visit_headers(&mut |header| {
        if header.name == b"aqueduct_dead_reason" {
            reason = header.value.map(|value| String::from_utf8_lossy(value).into_owned());
        }
    });
    let expected =
        "the record carries no event type (no ce_type header) and the topic declares no default type";
    assert_eq!(reason.as_deref(), Some(expected));
    drop(stop);
    running.await.unwrap().unwrap();
}

/// What is said of sizes in the docs of `KafkaOptions`: the client takes a batch apart before anybody here sees it, and
/// bounds what becomes of it for zstd alone. Red when a newer client differs.
#[tokio::test]
async fn a_batch_that_grows_is_bounded_by_the_client_for_zstd_alone() {
    const GROWN: usize = 120_000_000;
    let (log, prefix) = log().await;
    let wire = format!("{prefix}t");
    let made = NewTopic::new(&wire, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "20000000");
    admin().create_topics([&made], &AdminOptions::new()).await.unwrap();
    let payload = vec![0_u8; GROWN];
    for (base, codec) in (0..).zip(["gzip", "snappy", "lz4", "zstd"]) {
        let mut config = cluster::raw();
        config.set("compression.type", codec).set("message.max.bytes", "200000000");
        let producer: BaseProducer = config.create().unwrap();
        producer.send(BaseRecord::<(), _>::to(&wire).partition(0).payload(&payload)).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
        assert_eq!(log.end_offsets(&topic()).await.unwrap(), [base + 1], "{codec} was stored");
        let partition = PartitionId { topic: topic(), partition: 0 };
        let mut reader = log.cursor(&partition, Start::Offset(base)).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(60), reader.read(1)).await.expect("an answer");
        let grown = read.map(|batch| Record::all(&batch).next().unwrap().value().unwrap().len());
        match (codec, grown) {
            ("zstd", Err(error)) => {
                let told = LogErrorKind::Unreadable { first: base, end: base + 1 };
                assert_eq!(error.kind(), told, "{error}");
            }
            (_, grown) => assert_eq!(grown.unwrap(), GROWN, "{codec}"),
        }
    }
}
