//! The aggregate: a store's stock of one product.

use std::fmt;

use aqueduct::{Aggregate, EventSet};
use serde::{Deserialize, Serialize};
use shop_events::{
    BasketId, Sku, StoreId,
    inventory::{StockDepleted, StockReplenished, StockReserved},
};

/// Units in a case.
const CASE: u32 = 6;

/// The rule `cases-by-sku`: every shelf opens with one to four cases of six, by the product's number.
///
/// It is the state before the first event, and no event itself: the independent checker applies the same rule.
#[must_use]
pub(crate) fn opening(sku: Sku) -> u32 {
    CASE * (1 + sku.0 % 4)
}

/// A shelf. Opening stock + replenished - sold = stock, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    pub(crate) store: StoreId,
    pub(crate) sku: Sku,
    pub(crate) stock: u32,
    pub(crate) sold: u64,
    pub(crate) replenished: u64,
}

/// What may be asked of a shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Hand out what is there, at most this much.
    Sell {
        basket: BasketId,
        quantity: u32,
    },
    Restock {
        quantity: u32,
    },
}

/// Why a shelf says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Only an empty shelf is filled: the advice came too late, or twice.
    NotDepleted,
    /// A delivery of nothing.
    NothingToAdd,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDepleted => "the shelf is not empty",
            Self::NothingToAdd => "a shelf cannot be filled with 0 units",
        })
    }
}

impl std::error::Error for Refusal {}

/// What happens to a shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EventSet)]
pub(crate) enum StockEvent {
    /// Units were sold.
    Reserved(StockReserved),
    /// The last unit was sold.
    Depleted(StockDepleted),
    /// Units came.
    Replenished(StockReplenished),
}

impl StockEvent {
    /// Units that left the shelf.
    pub(crate) fn units_sold(&self) -> u32 {
        match self {
            Self::Reserved(reserved) => reserved.quantity,
            Self::Depleted(_) | Self::Replenished(_) => 0,
        }
    }
}

impl Shelf {
    /// The shelf before its first event.
    pub(crate) fn opening(store: StoreId, sku: Sku) -> Self {
        Self { store, sku, stock: opening(sku), sold: 0, replenished: 0 }
    }

    /// Whether it is empty. Selling the last unit said so in an event, and none says so again until it is filled.
    pub(crate) fn is_depleted(&self) -> bool {
        self.stock == 0
    }
}

impl Aggregate for Shelf {
    const STATE_VERSION: u32 = 1;
    type Command = Command;
    type Event = StockEvent;
    type Refusal = Refusal;

    fn decide(&self, command: Command) -> Result<Vec<StockEvent>, Refusal> {
        let Self { store, sku, .. } = *self;
        match command {
            Command::Sell { basket, quantity } => {
                let sold = quantity.min(self.stock);
                let mut events = Vec::new();
                if sold > 0 {
                    events.push(StockEvent::Reserved(StockReserved { store, sku, basket, quantity: sold }));
                    if sold == self.stock {
                        let refused = quantity - sold;
                        events.push(StockEvent::Depleted(StockDepleted { store, sku, basket, refused }));
                    }
                }
                Ok(events)
            }
            Command::Restock { .. } if !self.is_depleted() => Err(Refusal::NotDepleted),
            Command::Restock { quantity: 0 } => Err(Refusal::NothingToAdd),
            Command::Restock { quantity } => {
                Ok(vec![StockEvent::Replenished(StockReplenished { store, sku, quantity })])
            }
        }
    }

    fn evolve(&mut self, event: &StockEvent) {
        match event {
            StockEvent::Reserved(reserved) => {
                self.stock = self.stock.saturating_sub(reserved.quantity);
                self.sold = self.sold.saturating_add(reserved.quantity.into());
            }
            StockEvent::Depleted(_) => {}
            StockEvent::Replenished(replenished) => {
                self.stock = self.stock.saturating_add(replenished.quantity);
                self.replenished = self.replenished.saturating_add(replenished.quantity.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORE: StoreId = StoreId(330);
    /// Opens with 6.
    const SKU: Sku = Sku(4);

    fn reserved(basket: u64, quantity: u32) -> StockEvent {
        StockReserved { store: STORE, sku: SKU, basket: BasketId(basket), quantity }.into()
    }

    fn depleted(basket: u64, refused: u32) -> StockEvent {
        StockDepleted { store: STORE, sku: SKU, basket: BasketId(basket), refused }.into()
    }

    fn replenished(quantity: u32) -> StockEvent {
        StockReplenished { store: STORE, sku: SKU, quantity }.into()
    }

    fn sell(basket: u64, quantity: u32) -> Command {
        Command::Sell { basket: BasketId(basket), quantity }
    }

    /// Given these events, when this is asked, then that happens.
    fn after(given: &[StockEvent], when: Command) -> Result<Vec<StockEvent>, Refusal> {
        let mut shelf = Shelf::opening(STORE, SKU);
        given.iter().for_each(|event| shelf.evolve(event));
        shelf.decide(when)
    }

    #[test]
    fn opens_with_one_to_four_cases() {
        assert_eq!([4, 5, 6, 7].map(|sku| opening(Sku(sku))), [6, 12, 18, 24]);
        assert_eq!(opening(Sku(u32::MAX)), 24);
    }

    #[test]
    fn sells_what_is_there() {
        assert_eq!(after(&[], sell(1, 2)), Ok(vec![reserved(1, 2)]));
        assert_eq!(after(&[reserved(1, 2)], sell(2, 3)), Ok(vec![reserved(2, 3)]));
        assert_eq!(after(&[], sell(1, 0)), Ok(vec![]));
    }

    #[test]
    fn says_that_it_is_depleted_with_the_last_unit_and_once() {
        assert_eq!(after(&[], sell(1, 6)), Ok(vec![reserved(1, 6), depleted(1, 0)]));
        assert_eq!(after(&[reserved(1, 5)], sell(2, 4)), Ok(vec![reserved(2, 1), depleted(2, 3)]));
        assert_eq!(after(&[reserved(1, 6), depleted(1, 0)], sell(2, 4)), Ok(vec![]));
        assert_eq!(
            after(&[reserved(1, 6), depleted(1, 0), replenished(2)], sell(2, 2)),
            Ok(vec![reserved(2, 2), depleted(2, 0)])
        );
    }

    #[test]
    fn is_filled_only_when_empty() {
        let empty = [reserved(1, 6), depleted(1, 0)];
        assert_eq!(after(&empty, Command::Restock { quantity: 12 }), Ok(vec![replenished(12)]));
        assert_eq!(after(&empty, Command::Restock { quantity: 0 }), Err(Refusal::NothingToAdd));
        assert_eq!(after(&[], Command::Restock { quantity: 12 }), Err(Refusal::NotDepleted));
        let filled = [reserved(1, 6), depleted(1, 0), replenished(12)];
        assert_eq!(after(&filled, Command::Restock { quantity: 12 }), Err(Refusal::NotDepleted));
    }

    fn commands() -> impl Strategy<Value = Vec<Command>> {
        let quantity = prop_oneof![8 => 0..20_u32, 1 => any::<u32>()];
        let command = prop_oneof![
            3 => (any::<u64>(), quantity.clone()).prop_map(|(basket, quantity)| sell(basket, quantity)),
            1 => quantity.prop_map(|quantity| Command::Restock { quantity }),
        ];
        prop::collection::vec(command, 0..60)
    }

    proptest! {
        /// Red when a sale takes one unit more than is there, or `evolve` forgets to count one.
        #[test]
        fn stock_adds_up_whatever_is_asked(sku: u32, commands in commands()) {
            let mut shelf = Shelf::opening(STORE, Sku(sku));
            let (mut sold, mut refused, mut wanted, mut added) = (0_u64, 0_u64, 0_u64, 0_u64);
            let mut open_depletion = false;
            for command in commands {
                let before = shelf;
                let events = shelf.decide(command).unwrap_or_default();
                events.iter().for_each(|event| shelf.evolve(event));
                if let Command::Sell { quantity, .. } = command {
                    wanted += u64::from(quantity);
                    refused += u64::from(quantity) - (shelf.sold - before.sold);
                    prop_assert!(shelf.sold == before.sold + u64::from(quantity) || shelf.is_depleted());
                }
                for event in events {
                    match event {
                        StockEvent::Reserved(event) => {
                            prop_assert!(event.quantity > 0);
                            sold += u64::from(event.quantity);
                        }
                        StockEvent::Depleted(_) => {
                            prop_assert!(!open_depletion, "depleted twice");
                            open_depletion = true;
                        }
                        StockEvent::Replenished(event) => {
                            prop_assert!(open_depletion, "filled though not empty");
                            open_depletion = false;
                            added += u64::from(event.quantity);
                        }
                    }
                }
                prop_assert_eq!(u64::from(opening(Sku(sku))) + added - sold, u64::from(shelf.stock));
                prop_assert_eq!((shelf.sold, shelf.replenished), (sold, added));
                prop_assert_eq!(sold + refused, wanted);
                prop_assert_eq!(open_depletion, shelf.is_depleted());
            }
        }
    }
}
