//! A trace goes on over the outbox: what is staged with a handler's transaction carries it.

use std::time::Duration;

use aqueduct::{
    App, Database, Draft, Event, EventSet, Handled, Record, Sqlite, Subscription, TopicName, Tx,
    core::{
        cloudevents::Incoming,
        log::{PartitionId, Start},
        trace::TraceContext,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::support::Folder;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Serialize, Deserialize, Event)]
#[event(name = "test.Asked", topic = "asked", key = question)]
struct Asked {
    question: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "test.Answered", topic = "answered", key = question)]
struct Answered {
    question: u32,
}

async fn answer(asked: Asked, tx: Tx<Sqlite>) -> Handled<Answered> {
    tx.execute("INSERT INTO answer VALUES (?)", [asked.question])?;
    Ok(Answered { question: asked.question })
}

/// Red when `Draft::caused_by` drops the trace, or the relay drops a header.
#[tokio::test]
async fn a_staged_event_continues_the_trace_of_its_cause() {
    let folder = Folder::new();
    let database = Database::open(folder.path("answers.db"), "CREATE TABLE IF NOT EXISTS answer (question)");
    let database = database.await.unwrap();
    let bus = aqueduct::connect("memory:").await.unwrap();
    let app = App::builder("oracle").log(&bus).database(&database);
    let app = app.subscribe(Subscription::builder("oracle").on(answer)).build().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(stopped));
    let asked: Draft = Asked { question: 42 }.draft().unwrap();
    let position = bus.publish(asked.trace(TraceContext::parse(TRACE).unwrap())).await.unwrap();
    assert_eq!(position.offset, 0);

    let topic = TopicName::new("answered").unwrap();
    bus.log().ensure_topic(aqueduct::core::log::TopicSpec::new(topic.clone())).await.unwrap();
    let partitions = bus.log().end_offsets(&topic).await.unwrap().len();
    let mut readers = tokio::task::JoinSet::new();
    for partition in (0..).take(partitions) {
        let id = PartitionId { topic: topic.clone(), partition };
        let mut reader = bus.log().cursor(&id, Start::Earliest).await.unwrap();
        readers.spawn(async move { reader.read(1).await.unwrap() });
    }
    let batch = tokio::time::timeout(Duration::from_secs(10), readers.join_next()).await.unwrap();
    let record = Record::new(batch.unwrap().unwrap(), 0).unwrap();
    let trace = Incoming::read(&record, None).unwrap().envelope().trace.unwrap().to_string();
    assert_eq!((&trace[..36], &trace[52..]), (&TRACE[..36], "-01"));
    assert_ne!(trace[36..52], TRACE[36..52]);
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    database.close().await;
}
