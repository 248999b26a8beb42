//! A handler without a transaction is called again where a process died. Prove that it does not matter.

use std::sync::{Arc, Mutex};

use aqueduct::prelude::*;
use aqueduct_testkit::sim::{Case, simulate};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "shop.Ordered", topic = "orders", key = order)]
struct Ordered {
    order: u32,
}

/// Another system, which outlives our processes.
type Parcels = Arc<Mutex<Vec<u32>>>;

async fn ship(Ordered { order }: Ordered, State(parcels): State<Parcels>) -> Handled {
    let mut parcels = parcels.lock().map_err(|error| error.to_string())?;
    if !parcels.contains(&order) {
        parcels.push(order);
    }
    Ok(())
}

fn main() {
    let summary = simulate(0..200, |_| {
        let parcels = Parcels::default();
        let kept = Arc::clone(&parcels);
        Case::new(|plan| plan.apply(Subscription::builder("ship").on(ship)), move |_| Arc::clone(&parcels))
            .events((0..50).map(|order| Ordered { order }))
            .finally(move |world| match kept.lock().map(|parcels| parcels.len()) {
                Ok(parcels) if parcels == world.ids("orders").len() => Ok(()),
                parcels => Err(format!("{parcels:?} parcels of {} orders", world.ids("orders").len())),
            })
    });
    println!("one parcel for each order, through {} records", summary.records);
}
