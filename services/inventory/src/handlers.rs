//! What inventory does with each event.

use std::{collections::BTreeMap, fmt};

use aqueduct::{AppBuilder, prelude::*};
use shop_events::{
    BasketId, Sku,
    inventory::{StockReplenished, StockReserved},
    recommendation::RestockAdvised,
    till::BasketCheckedOut,
};

use crate::{
    http,
    shelf::{Command, Refusal, StockEvent},
    store::{self, Change},
};

/// The service on this bus and this database; the caller adds a listener, if any, and runs it.
pub fn app(bus: &Bus, database: &Database) -> AppBuilder<()> {
    App::builder("inventory")
        .log(bus)
        .database(database)
        // The shelves' history, kept whole whatever the cluster's default is.
        .topic::<StockReserved>(|topic| topic)
        .subscribe(
            Subscription::builder("inventory")
                .on(on_checkout)
                .on(on_restock_advice)
                // A basket that cannot be right is a person's to look at; its store goes on selling.
                .then(OnFailure::DeadLetter),
        )
        .routes(http::routes(database.clone()))
}

/// Decides all products of a basket: sells what is there, refuses the rest.
async fn on_checkout(checkout: BasketCheckedOut, tx: Tx<Sqlite>) -> Handled<Vec<StockEvent>> {
    let BasketCheckedOut { basket, store, .. } = checkout;
    let (mut units_sold, mut units_refused) = (0_i64, 0_i64);
    let mut happened = Vec::with_capacity(checkout.lines.len());
    for (sku, quantity) in units_by_product(&checkout).map_err(Terminal::new)? {
        let events =
            store::execute(&tx, store, sku, Command::Sell { basket, quantity })?.map_err(Terminal::new)?;
        let sold = events.iter().map(StockEvent::units_sold).sum();
        let refused = quantity - sold;
        store::show(&tx, store, sku, Change { sold, refused, ..Change::default() })?;
        units_sold += i64::from(sold);
        units_refused += i64::from(refused);
        happened.extend(events);
    }
    let number = i64::try_from(basket.0).map_err(Terminal::new)?;
    if !store::note_basket(&tx, number, store, units_sold, units_refused)? {
        return Err(Terminal::new(BasketFault { basket, what: What::SoldBefore }).into());
    }
    Ok(happened)
}

/// Orders what is advised, if the shelf is still empty.
async fn on_restock_advice(advice: RestockAdvised, tx: Tx<Sqlite>) -> Handled<Option<StockEvent>> {
    let RestockAdvised { store, sku, quantity, .. } = advice;
    match store::execute(&tx, store, sku, Command::Restock { quantity })? {
        Ok(_) => {
            store::show(&tx, store, sku, Change { replenished: quantity, ..Change::default() })?;
            Ok(Some(StockReplenished { store, sku, quantity }.into()))
        }
        // Someone filled it in the meantime: the advice is answered.
        Err(Refusal::NotDepleted) => Ok(None),
        Err(refusal @ Refusal::NothingToAdd) => Err(Terminal::new(refusal).into()),
    }
}

/// The lines of a basket, those of one product merged, by product.
fn units_by_product(checkout: &BasketCheckedOut) -> Result<BTreeMap<Sku, u32>, BasketFault> {
    let mut units = BTreeMap::new();
    for line in &checkout.lines {
        let merged: &mut u32 = units.entry(line.sku).or_default();
        *merged = merged
            .checked_add(line.quantity)
            .ok_or(BasketFault { basket: checkout.basket, what: What::TooManyUnits(line.sku) })?;
    }
    Ok(units)
}

/// A basket that no attempt can handle.
#[derive(Debug)]
struct BasketFault {
    basket: BasketId,
    what: What,
}

#[derive(Debug)]
enum What {
    SoldBefore,
    TooManyUnits(Sku),
}

impl fmt::Display for BasketFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { basket, what } = self;
        match what {
            What::SoldBefore => write!(f, "basket {basket} was handled before, by an event with another id"),
            What::TooManyUnits(sku) => {
                write!(f, "basket {basket} asks for over {} units of product {sku}", u32::MAX)
            }
        }
    }
}

impl std::error::Error for BasketFault {}

#[cfg(test)]
mod tests {
    use shop_events::{HouseholdId, StoreId, till::Line};

    use super::*;

    fn basket(lines: &[(u32, u32)]) -> BasketCheckedOut {
        BasketCheckedOut {
            basket: BasketId(7),
            store: StoreId(330),
            household: HouseholdId(900),
            at: Timestamp::from_millis(0),
            lines: lines
                .iter()
                .map(|&(sku, quantity)| Line { sku: Sku(sku), quantity, paid_cents: None })
                .collect(),
        }
    }

    #[test]
    fn lines_of_one_product_are_one_sale() {
        let merged = units_by_product(&basket(&[(5, 1), (4, 2), (5, 3)])).unwrap();
        assert_eq!(merged.into_iter().collect::<Vec<_>>(), [(Sku(4), 2), (Sku(5), 4)]);
    }

    /// P12.
    #[test]
    fn a_basket_beyond_counting_is_refused() {
        let fault = units_by_product(&basket(&[(5, u32::MAX), (5, 1)])).unwrap_err();
        assert_eq!(fault.to_string(), "basket 7 asks for over 4294967295 units of product 5");
    }
}
