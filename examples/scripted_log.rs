//! The production app on a log that fails on command, in virtual time: two processes, one of them paused too long.

use std::{sync::Arc, time::Duration};

use aqueduct::{TopicName, core::log::CommitLog, memory::MemoryLog, prelude::*};
use tokio::time::{Instant, sleep};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "shop.Ordered", topic = "orders", key = order)]
struct Ordered {
    order: u32,
}

async fn on_ordered(Ordered { order }: Ordered, State(name): State<&'static str>) -> Handled {
    println!("{name} ships order {order}");
    Ok(())
}

/// A process: the app as it runs in production, with a handle of the log of its own.
async fn start(name: &'static str, log: &MemoryLog) -> Result<(), BoxError> {
    let bus = Bus::open(Arc::new(log.clone()), aqueduct::system_environment()).await?;
    let shipping = Subscription::builder("shipping").on(on_ordered);
    let app = App::builder(name).log(&bus).state(name).subscribe(shipping);
    tokio::spawn(app.run(std::future::pending::<()>()));
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let (log, began) = (MemoryLog::new(1), Instant::now());
    let (one, two) = (log.process(), log.process());
    start("one", &one).await?;
    start("two", &two).await?;
    let till = Bus::open(Arc::new(log.clone()), aqueduct::system_environment()).await?;
    till.publish(&Ordered { order: 1 }).await?;
    sleep(Duration::from_secs(1)).await;

    log.faults().pause(&one);
    till.publish(&Ordered { order: 2 }).await?;
    sleep(Duration::from_secs(3600)).await;
    log.faults().expire(&one);
    sleep(Duration::from_secs(1)).await;
    log.faults().resume(&one);
    sleep(Duration::from_secs(1)).await;

    let settled = log.settled_offsets("shipping", &TopicName::new("orders")?).await?;
    let settled: Vec<_> = settled.into_iter().flatten().map(|settled| settled.offset).collect();
    println!("settled {settled:?} after {} s", began.elapsed().as_secs());
    Ok(())
}
