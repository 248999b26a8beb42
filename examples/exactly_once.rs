//! From topic to topic: what a handler returns is there once, however often the service is killed.

use std::time::Duration;

use aqueduct::{App, TopicName, core::Event as _, prelude::*};
use tokio::{sync::oneshot, time::sleep};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "till.Sold", topic = "sold", key = sku)]
struct Sold {
    sku: u32,
    cents: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "tax.Due", topic = "tax", key = sku)]
struct Due {
    sku: u32,
    cents: u64,
}

async fn tax(sold: Sold) -> Handled<Due> {
    Ok(Due { sku: sold.sku, cents: sold.cents / 5 })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bus = aqueduct::connect("memory:").await?;
    let service = || {
        let taxing = Subscription::builder("taxing").on(tax).exactly_once();
        App::builder("taxing").log(&bus).topic::<Due>(|topic| topic).subscribe(taxing).build()
    };
    let waiting = async || -> Result<i64, BoxError> {
        let (ends, settled) = {
            let topic = TopicName::new(Sold::INFO.topic)?;
            (bus.log().end_offsets(&topic).await?, bus.log().settled_offsets("taxing", &topic).await?)
        };
        let settled = settled.into_iter().map(|settled| settled.map_or(0, |settled| settled.offset));
        Ok(ends.into_iter().zip(settled).map(|(end, settled)| end - settled).sum())
    };
    let sales: Vec<_> = (0..2_000).map(|sku| Sold { sku, cents: 500 }).collect();
    bus.publish_all(&sales).await?;

    // Killed again and again, wherever it is.
    for life in 1..=5 {
        let (_running_until_killed, never) = oneshot::channel::<()>();
        let running = tokio::spawn(service()?.run(never));
        sleep(Duration::from_millis(life)).await;
        running.abort();
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(service()?.run(stopped));
    while waiting().await? > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    drop(stop);
    running.await??;
    let due: i64 = bus.log().end_offsets(&TopicName::new(Due::INFO.topic)?).await?.into_iter().sum();
    println!("2000 sold, tax due {due} times");
    Ok(())
}
