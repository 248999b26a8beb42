//! A key whose event fails waits with its successors, in order, until an operator releases it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct::{TopicName, core::Event as _, parked, prelude::*, release};
use tokio::{sync::oneshot, time::sleep};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "billing.Invoiced", topic = "invoices", key = customer)]
struct Invoiced {
    customer: String,
    number: u32,
}

async fn on_invoiced(invoice: Invoiced, State(repaired): State<Arc<AtomicBool>>) -> Handled {
    if invoice.customer == "acme" && !repaired.load(Ordering::Relaxed) {
        return Err(Terminal::new("acme has no address").into());
    }
    println!("invoice {} for {}", invoice.number, invoice.customer);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bus = aqueduct::connect("memory:").await?;
    for (customer, number) in [("acme", 1), ("zenith", 2), ("acme", 3)] {
        bus.publish(&Invoiced { customer: customer.to_owned(), number }).await?;
    }
    let repaired = Arc::new(AtomicBool::new(false));
    let billing = Subscription::builder("billing").on(on_invoiced);
    let app = App::builder("billing").log(&bus).state(Arc::clone(&repaired)).subscribe(billing).build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let status = app.status();
    let running = tokio::spawn(app.run(stopped));

    // What an operator does: look, repair the cause, release.
    let topic = TopicName::new(Invoiced::INFO.topic)?;
    let keys = loop {
        let keys = parked(&bus, "billing", &topic).await?;
        if keys.iter().any(|key| key.records == 2) {
            break keys;
        }
        sleep(Duration::from_millis(10)).await;
    };
    for key in &keys {
        println!("parked: {} with {} invoices: {}", key.key.escape_ascii(), key.records, key.reason);
        repaired.store(true, Ordering::Relaxed);
        release(&bus, "billing", &key.partition, &key.key).await?;
    }
    while status.subscriptions().iter().any(|each| each.partitions.values().any(|one| one.parked > 0)) {
        sleep(Duration::from_millis(10)).await;
    }
    // The app drains when the other end of its shutdown is gone.
    drop(stop);
    Ok(running.await??)
}
