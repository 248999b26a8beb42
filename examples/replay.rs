//! The past, asked: what was on the shelves at noon? The same handler, muted, up to that moment; nothing is ordered again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aqueduct::{App, Replay, TopicName, Until, core::Event as _, prelude::*};
use tokio::{sync::oneshot, time::sleep};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "shelf.Counted", topic = "shelf", key = sku)]
struct Counted {
    sku: u32,
    by: i64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "shelf.Ordered", topic = "orders", key = sku)]
struct Ordered {
    sku: u32,
}

#[derive(Clone, Default)]
struct Shelves(Arc<Mutex<BTreeMap<u32, i64>>>);

async fn count(event: Counted, State(Shelves(shelves)): State<Shelves>) -> Handled<Option<Ordered>> {
    let mut shelves = shelves.lock().unwrap_or_else(PoisonError::into_inner);
    let stock = shelves.entry(event.sku).or_default();
    *stock += event.by;
    Ok((*stock == 0).then_some(Ordered { sku: event.sku }))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bus = aqueduct::connect("memory:").await?;
    let now = Shelves::default();
    let service = App::builder("shelf").log(&bus).state(now.clone());
    let service = service.subscribe(Subscription::builder("shelf").on(count)).build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(service.run(stopped));

    let counted = |events: &[(u32, i64)]| {
        let events: Vec<_> = events.iter().map(|(sku, by)| Counted { sku: *sku, by: *by }).collect();
        bus.publish_all(&events)
    };
    counted(&[(1, 12), (2, 3), (1, -4), (2, -3)]).await?;
    sleep(Duration::from_millis(5)).await;
    let noon = bus.environment().now();
    counted(&[(2, 10), (1, -8)]).await?;
    let ordered = async || -> Result<i64, BoxError> {
        Ok(bus.log().end_offsets(&TopicName::new(Ordered::INFO.topic)?).await?.into_iter().sum())
    };
    while bus.log().describe_topic(&TopicName::new(Ordered::INFO.topic)?).await?.is_none()
        || ordered().await? < 2
    {
        sleep(Duration::from_millis(5)).await;
    }

    let at_noon = Shelves::default();
    let replay = Replay::builder("shelves-at-noon").on(count).until(Until::Time(noon));
    let replayed = replay.run(&bus, at_noon.clone()).await?;
    let shown =
        |Shelves(shelves): Shelves| format!("{:?}", shelves.lock().unwrap_or_else(PoisonError::into_inner));
    println!("at noon: {}, of {} events", shown(at_noon), replayed.ended);
    println!("now: {}; ordered {} times", shown(now), ordered().await?);
    drop(stop);
    running.await??;
    Ok(())
}
