//! Your own handlers in the simulation: crashes, pauses, rebalances and storms, then what must be true at the end.

use aqueduct::prelude::*;
use aqueduct_testkit::sim::{Case, Tx, World, simulate};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "bank.Deposited", topic = "deposits", key = account)]
struct Deposited {
    account: String,
    cents: u64,
}

async fn on_deposited(deposit: Deposited, tx: Tx) -> Handled {
    let balance = tx.get(&deposit.account)?.unwrap_or(0);
    tx.put(&deposit.account, &(balance + deposit.cents))?;
    Ok(())
}

/// One cent each: however often processes died, each deposit that is in the log counts once.
fn each_counts_once(world: &World) -> Result<(), BoxError> {
    let balances = world.rows().all::<u64>("")?;
    let total: u64 = balances.iter().map(|(_, _, cents)| cents).sum();
    let deposits = world.ids("deposits").len();
    if total == u64::try_from(deposits)? { Ok(()) } else { Err(format!("{total} of {deposits}").into()) }
}

fn main() {
    let summary = simulate(0..200, |plan| {
        let deposit = |number| Deposited { account: format!("a{}", number % 7), cents: 1 };
        Case::new(|plan| plan.apply(Subscription::builder("bank").on(on_deposited)), |_| ())
            .database()
            .events((0..plan.events).map(deposit))
            .finally(each_counts_once)
    });
    println!("each deposit counted once; on the way: {:?}", summary.faults);
}
