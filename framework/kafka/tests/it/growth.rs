//! Partitions that are added to a topic of a real cluster.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct::{App, Handled, State, Subscription, prelude::*};
use aqueduct_core::{
    TopicName,
    key::partition_of,
    log::{PartitionId, TopicSpec},
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};
use tokio::sync::Semaphore;

use crate::cluster;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "test.Moved", topic = "moved", key = key)]
struct Moved {
    key: String,
    number: u32,
}

/// What was handled, and who lets it be.
#[derive(Clone)]
struct Gate(Arc<Semaphore>, Arc<Mutex<Vec<u32>>>);

async fn pass(event: Moved, State(Gate(gate, seen)): State<Gate>) -> Handled {
    gate.acquire().await?.forget();
    seen.lock().unwrap().push(event.number);
    Ok(())
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come true within 30 s");
}

/// P2, R2: an operator adds a partition, and a key moves to it. Red when it is begun at once, when it is not noticed, or when
/// the topic of parked records does not follow.
#[tokio::test]
async fn a_key_that_moves_to_an_added_partition_keeps_its_order() {
    let prefix = cluster::prefix();
    // How soon the client looks whether there are more partitions.
    let url = format!("{}?{prefix}&partitions=1&topic.metadata.refresh.interval.ms=500", cluster::url());
    let bus = aqueduct::connect(&url).await.unwrap();
    let topic = TopicName::new("moved").unwrap();
    bus.log().ensure_topic(TopicSpec::new(topic.clone())).await.unwrap();
    let key = (0..).map(|number| format!("k{number}"));
    let key = key.into_iter().find(|key| partition_of(key.as_bytes(), 2) == 1).unwrap();
    let event = |number| Moved { key: key.clone(), number };
    let gate = Gate(Arc::new(Semaphore::new(0)), Arc::default());
    let app = App::builder("moving").log(&bus).state(gate.clone());
    let app = app.subscribe(Subscription::builder("moving").on(pass)).build().unwrap();
    let status = app.status();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(stopped));
    assert_eq!(bus.publish(&event(1)).await.unwrap().partition.partition, 0);
    let settled = || async {
        let settled = bus.log().settled_offsets("moving", &topic).await.unwrap();
        settled.into_iter().map(|settled| Some(settled?.offset)).collect::<Vec<_>>()
    };
    until("the beginning", async || settled().await == [Some(0)]).await;

    let admin: AdminClient<DefaultClientContext> = cluster::raw().create().unwrap();
    let wire = format!("{}moved", prefix.trim_start_matches("prefix="));
    admin.create_partitions(&[NewPartitions::new(&wire, 2)], &AdminOptions::new()).await.unwrap();
    let id = |partition| PartitionId { topic: topic.clone(), partition };
    let waiting = || {
        let subscription = status.subscriptions().remove(0);
        subscription.partitions.get(&id(1)).and_then(|status| status.waiting.clone()).unwrap_or_default()
    };
    until("waiting for a record", async || waiting() == "it was added to moved and has no record yet").await;
    // This process's producer hears of it in its time.
    let mut moved = None;
    until("a record in the new one", async || {
        let position = bus.publish(&event(2)).await.unwrap();
        moved = Some(position).filter(|position| position.partition.partition == 1);
        moved.is_some()
    })
    .await;
    assert_eq!(moved.unwrap().offset, 0);
    until("waiting for the older one", async || {
        waiting().starts_with("it was added to moved, and moved/0 is settled up to 0 of")
    })
    .await;
    assert_eq!(settled().await, [Some(0), None]);
    gate.0.add_permits(100);
    bus.publish(&event(3)).await.unwrap();
    until("the last event", async || gate.1.lock().unwrap().last() == Some(&3)).await;
    let seen = gate.1.lock().unwrap().clone();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen[0], seen[seen.len() - 2]), (1, 2));
    let parked = TopicName::new("moving.moved.parked").unwrap();
    assert_eq!(bus.log().describe_topic(&parked).await.unwrap().unwrap().spec.partitions, Some(2));
    drop(stop);
    running.await.unwrap().unwrap();
    assert_eq!(settled().await[1], Some(2));
}
