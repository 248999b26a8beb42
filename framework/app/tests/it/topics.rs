use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aqueduct_app::App;
use aqueduct_core::{TopicName, log::TopicSpec};

use crate::{support::*, watched::Watched};

/// Red when `make_topics` is not called, or what it finds is not compared.
#[tokio::test]
async fn declared_topics_are_made_and_what_differs_is_reported() {
    let (logs, _guard) = Logs::capture();
    let (bus, gate) = (memory(3).await, Gate::shut());
    let name = |name| TopicName::new(name).unwrap();
    let there = TopicSpec { partitions: Some(2), compacted: true, ..TopicSpec::new(name("pongs")) };
    bus.log().ensure_topic(there).await.unwrap();
    let day = Duration::from_secs(86_400);
    let app = App::builder("pinger")
        .log(&bus)
        .state(gate)
        .subscribe(pings())
        .topic::<Pinged>(|topic| TopicSpec { partitions: Some(5), replication: Some(3), ..topic })
        .topic::<Ponged>(|topic| TopicSpec {
            partitions: Some(5),
            retention: Some(day),
            retention_bytes: Some(9),
            ..topic
        });
    let running = Running::start(app.build().unwrap()).ready().await;
    let made = bus.log().describe_topic(&name("pings")).await.unwrap().unwrap();
    assert_eq!(made.spec.partitions, Some(5));
    running.stop().await.unwrap().unwrap();
    let reported: Vec<_> = logs
        .lines()
        .into_iter()
        .filter(|line| line["fields"]["message"] == "a topic is not as it was declared")
        .map(|line| {
            let text = |field: &str| line["fields"][field].as_str().unwrap().to_owned();
            (text("topic"), text("difference"))
        })
        .collect();
    let expected = [
        "partitions: 2, declared 5",
        "records are kept for ever, declared for 86400 s",
        "a partition keeps all, declared 9 bytes",
        "of a key's records it keeps the last of each key, declared all",
    ];
    assert_eq!(reported, expected.map(|difference| ("pongs".to_owned(), difference.to_owned())));
}

/// A service that starts while a broker is away. Red when the first answer that does not come ends it.
#[tokio::test]
async fn a_declared_topic_is_asked_for_until_the_log_answers() {
    let log = Watched::new();
    let silent = Arc::clone(&log.silent);
    silent.store(3, Ordering::Relaxed);
    let bus = bus(log).await;
    let app = App::builder("pinger").log(&bus).state(Gate::shut()).subscribe(pings());
    let app = app.topic::<Pinged>(|topic| topic).build().unwrap();
    let running = Running::start(app).ready().await;
    assert_eq!(silent.load(Ordering::Relaxed), 0);
    running.stop().await.unwrap().unwrap();
    // One that is to end meanwhile does.
    silent.store(u32::MAX, Ordering::Relaxed);
    let app = App::builder("pinger").log(&bus).state(Gate::shut()).topic::<Ponged>(|topic| topic);
    Running::start(app.build().unwrap()).stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_topic_is_declared_once() {
    let bus = memory(1).await;
    let app = App::builder("pinger").log(&bus).topic::<Pinged>(|topic| topic).topic::<Pinged>(|topic| topic);
    assert_eq!(app.build().unwrap_err().to_string(), "app pinger declares topic pings twice");
}
