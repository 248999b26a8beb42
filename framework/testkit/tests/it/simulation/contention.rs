//! Handlers of different keys that write one row.

use std::time::Duration;

use aqueduct_core::Handled;
use aqueduct_derive::Event;
use aqueduct_runtime::Subscription;
use aqueduct_testkit::sim::{Case, Tx, simulate};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "sim.Given", topic = "given", key = from, crate = aqueduct_core)]
struct Given {
    from: u64,
}

async fn count(_: Given, tx: Tx) -> Handled {
    let total: u64 = tx.get("total")?.unwrap_or(0);
    // Time for another one to write it.
    sleep(Duration::from_millis(3)).await;
    Ok(tx.put("total", &(total + 1))?)
}

/// P4. Red when a transaction commits although a row that it read has been written since.
#[test]
fn transactions_that_conflict_are_tried_again() {
    simulate(0..50, |_| {
        Case::new(|plan| plan.apply(Subscription::builder("sum").on(count)).concurrency(8), |_| ())
            .database()
            .events((0..60).map(|from| Given { from }))
            .finally(|world| {
                let total: u64 = world.rows().get("total").unwrap().unwrap_or(0);
                let given = u64::try_from(world.ids("given").len()).unwrap();
                if total == given { Ok(()) } else { Err(format!("{total} of {given}")) }
            })
    });
}
