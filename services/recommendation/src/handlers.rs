//! What recommendation does with each event.

use std::{collections::BTreeMap, fmt};

use aqueduct::{AppBuilder, prelude::*};
use shop_events::{
    BasketId, Sku,
    inventory::{StockDepleted, StockReplenished, StockReserved},
    recommendation::RestockAdvised,
    till::BasketCheckedOut,
};

use crate::{http, learning, store};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The service on this bus and this database; the caller adds a listener, if any, and runs it.
pub fn app(bus: &Bus, database: &Database) -> AppBuilder<()> {
    App::builder("recommendation")
        .log(bus)
        .database(database)
        .subscribe(
            Subscription::builder("recommendation")
                .on(on_checkout)
                .on(on_depleted)
                .on(on_replenished)
                .ignore::<StockReserved>()
                // An advice that fails is a person's to look at; its store's others go on.
                .then(OnFailure::DeadLetter),
        )
        .routes(http::routes(database.clone()))
}

/// Learns from a basket.
async fn on_checkout(checkout: BasketCheckedOut, tx: Tx<Sqlite>) -> Handled {
    let BasketCheckedOut { basket, store, household, .. } = checkout;
    let day = checkout.at.as_micros().div_euclid(MICROS_PER_DAY);
    let mut products = BTreeMap::<Sku, i64>::new();
    for line in checkout.lines.iter().filter(|line| line.quantity > 0) {
        *products.entry(line.sku).or_default() += i64::from(line.quantity);
    }
    for (&sku, &units) in &products {
        store::add_demand(&tx, store, sku, units, day)?;
        store::add_purchase(&tx, household, sku, units)?;
    }
    let paired = learning::paired(basket, products.keys().copied());
    for (index, &a) in paired.iter().enumerate() {
        for &b in &paired[index + 1..] {
            store::add_pair(&tx, a, b)?;
        }
    }
    let number = i64::try_from(basket.0).map_err(Terminal::new)?;
    if !store::note_basket(&tx, number, store, products.values().sum())? {
        return Err(Terminal::new(LearntBefore(basket)).into());
    }
    Ok(())
}

/// Stops recommending what is not there, and advises how much to order.
async fn on_depleted(event: StockDepleted, tx: Tx<Sqlite>) -> Handled<RestockAdvised> {
    let StockDepleted { store, sku, basket, .. } = event;
    store::mark_depleted(&tx, store, sku)?;
    let quantity = learning::restock_quantity(store::demand(&tx, store, sku)?);
    Ok(RestockAdvised { store, sku, quantity, depleted_by: basket })
}

/// Recommends it again.
async fn on_replenished(event: StockReplenished, tx: Tx<Sqlite>) -> Handled {
    Ok(store::unmark_depleted(&tx, event.store, event.sku)?)
}

/// A basket that came before, under another event id.
#[derive(Debug)]
struct LearntBefore(BasketId);

impl fmt::Display for LearntBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "basket {} was handled before, by an event with another id", self.0)
    }
}

impl std::error::Error for LearntBefore {}
