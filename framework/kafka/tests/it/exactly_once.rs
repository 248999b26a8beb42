//! From topic to topic, exactly once, on a real broker.

use std::time::Duration;

use aqueduct::{App, Bus, Handled, Subscription, prelude::*};
use aqueduct_core::{
    Record, TopicName,
    log::{Offset, PartitionId, Start, TopicSpec},
};

use crate::{
    cluster,
    wire::{Api, Wire},
};

/// Of Kafka's protocol, by its documentation; the client's producer is over after it.
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "test.Given", topic = "given", key = key)]
struct Given {
    key: String,
    number: u32,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "test.Mirrored", topic = "mirrored", key = key)]
struct Mirrored {
    key: String,
    number: u32,
}

async fn mirror(Given { key, number }: Given) -> Handled<Mirrored> {
    Ok(Mirrored { key, number })
}

/// Runs the service by the log at `url` until the group has settled `count` events of the one partition.
async fn run(url: &str, watching: &Bus, count: Offset) {
    let bus = aqueduct::connect(url).await.unwrap();
    let app = App::builder("mirror").log(&bus).topic::<Mirrored>(|topic| topic);
    let app = app.subscribe(Subscription::builder("mirror").on(mirror).exactly_once()).build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(stopped));
    let topic = TopicName::new("given").unwrap();
    let mut settled = None;
    for _ in 0..600 {
        let offsets = watching.log().settled_offsets("mirror", &topic).await.unwrap();
        settled = offsets[0].as_ref().map(|settled| settled.offset);
        if settled == Some(count) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(settled, Some(count));
    drop(stop);
    running.await.unwrap().unwrap();
    bus.log().close().await.unwrap();
}

/// The numbers that are committed.
async fn mirrored(bus: &Bus) -> Vec<u32> {
    let topic = TopicName::new("mirrored").unwrap();
    let end = bus.log().end_offsets(&topic).await.unwrap()[0];
    let mut reader = bus.log().cursor(&PartitionId { topic, partition: 0 }, Start::Earliest).await.unwrap();
    let mut numbers = Vec::new();
    while reader.position() < end {
        numbers.extend(
            Record::all(&reader.read(100).await.unwrap())
                .map(|record| serde_json::from_slice::<Mirrored>(record.value().unwrap()).unwrap().number),
        );
    }
    numbers
}

/// P4, R8. Red when a transaction whose end is not known is written again without a look at what is settled, when its
/// producer is used again, or when what is settled comes without its metadata.
#[tokio::test]
async fn what_a_handler_returns_is_there_once_though_an_answer_is_lost() {
    let prefix = cluster::prefix();
    let direct = format!("{}?{prefix}&partitions=1", cluster::url());
    let bus = aqueduct::connect(&direct).await.unwrap();
    let given = |numbers: std::ops::Range<u32>| numbers.map(|number| Given { key: "k".to_owned(), number });
    bus.log().ensure_topic(TopicSpec::new(TopicName::new("given").unwrap())).await.unwrap();
    bus.publish_all(&given(0..3).collect::<Vec<_>>()).await.unwrap();
    let wire = Wire::new();
    wire.fail(Api::EndTxn, 1, TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    run(&format!("{}?{prefix}&partitions=1", wire.url()), &bus, 3).await;
    assert_eq!((wire.met(), mirrored(&bus).await), (1, vec![0, 1, 2]));
    // Another process goes on.
    bus.publish_all(&given(3..5).collect::<Vec<_>>()).await.unwrap();
    run(&direct, &bus, 5).await;
    assert_eq!(mirrored(&bus).await, [0, 1, 2, 3, 4]);
}
