//! What the tills say.
//!
//! Two versions are in use: new tills say what was paid, old ones cannot. [`old_till`] says which stores still have
//! old tills; readers see version 2 only.

use aqueduct::{Event, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::{BasketId, HouseholdId, Sku, StoreId};

/// A customer paid for a basket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(
    name = "till.BasketCheckedOut",
    version = 2,
    topic = "till.baskets",
    key = store,
    upcasts = BasketCheckedOutV1
)]
pub struct BasketCheckedOut {
    /// The purchase.
    pub basket: BasketId,
    /// Where.
    pub store: StoreId,
    /// Who.
    pub household: HouseholdId,
    /// When.
    pub at: Timestamp,
    /// What. A product may stand in several lines.
    pub lines: Vec<Line>,
}

/// A line of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub sku: Sku,
    /// Units wanted.
    pub quantity: u32,
    /// What the store received for the line, in cents; old tills do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_cents: Option<i64>,
}

/// [`BasketCheckedOut`] as old tills publish it: without amounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "till.BasketCheckedOut", version = 1, topic = "till.baskets", key = store)]
pub struct BasketCheckedOutV1 {
    /// The purchase.
    pub basket: BasketId,
    /// Where.
    pub store: StoreId,
    /// Who.
    pub household: HouseholdId,
    /// When.
    pub at: Timestamp,
    /// What. A product may stand in several lines.
    pub lines: Vec<LineV1>,
}

impl BasketCheckedOutV1 {
    /// A basket as an old till says it.
    #[must_use]
    pub fn without_amounts(basket: &BasketCheckedOut) -> Self {
        let line = |&Line { sku, quantity, paid_cents: _ }: &Line| LineV1 { sku, quantity };
        Self {
            basket: basket.basket,
            store: basket.store,
            household: basket.household,
            at: basket.at,
            lines: basket.lines.iter().map(line).collect(),
        }
    }
}

/// A line of an old till's receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineV1 {
    /// The product.
    pub sku: Sku,
    /// Units wanted.
    pub quantity: u32,
}

impl From<BasketCheckedOutV1> for BasketCheckedOut {
    fn from(old: BasketCheckedOutV1) -> Self {
        let line = |LineV1 { sku, quantity }| Line { sku, quantity, paid_cents: None };
        Self {
            basket: old.basket,
            store: old.store,
            household: old.household,
            at: old.at,
            lines: old.lines.into_iter().map(line).collect(),
        }
    }
}

/// The rule `old-till`: stores with an odd number still have tills that publish version 1.
#[must_use]
pub fn old_till(store: StoreId) -> bool {
    !store.0.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use aqueduct::Draft;

    use super::*;

    /// P8. Red when the `upcasts` attribute is removed, or `From` drops a line.
    #[test]
    fn readers_see_baskets_of_old_tills_as_version_2() {
        let old = BasketCheckedOutV1 {
            basket: BasketId(31_198_570_044),
            store: StoreId(331),
            household: HouseholdId(900),
            at: Timestamp::from_millis(1_483_271_606_000),
            lines: vec![LineV1 { sku: Sku(1_095_275), quantity: 1 }, LineV1 { sku: Sku(9), quantity: 2 }],
        };
        let payload = serde_json::to_vec(&old).unwrap();
        let read = <BasketCheckedOut as Event>::decode(1, &payload).unwrap();
        assert_eq!(read, BasketCheckedOut::from(old.clone()));
        assert_eq!(read.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Draft::of(&old).unwrap().info().event.to_string(), "till.BasketCheckedOut");
        assert_eq!(Draft::of(&read).unwrap().info().event.to_string(), "till.BasketCheckedOut.v2");
        assert_eq!(old.key().unwrap().as_bytes(), b"331");
    }

    /// The wire format of the contract: a change here is a change for every reader.
    #[test]
    fn version_2_on_the_wire() {
        let basket = BasketCheckedOut {
            basket: BasketId(31_198_570_044),
            store: StoreId(330),
            household: HouseholdId(900),
            at: Timestamp::from_millis(1_483_271_606_000),
            lines: vec![
                Line { sku: Sku(1_095_275), quantity: 1, paid_cents: Some(50) },
                Line { sku: Sku(9), quantity: 2, paid_cents: None },
            ],
        };
        let json = serde_json::to_string(&basket).unwrap();
        assert_eq!(
            json,
            r#"{"basket":31198570044,"store":330,"household":900,"at":1483271606000000,"#.to_owned()
                + r#""lines":[{"sku":1095275,"quantity":1,"paid_cents":50},{"sku":9,"quantity":2}]}"#
        );
        assert_eq!(<BasketCheckedOut as Event>::decode(2, json.as_bytes()).unwrap(), basket);
    }
}
