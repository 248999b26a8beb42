//! What the recommendation service advises.

use aqueduct::Event;
use serde::{Deserialize, Serialize};

use crate::ids::{BasketId, Sku, StoreId};

/// An empty shelf should be filled, by this much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "recommendation.RestockAdvised", topic = "recommendation.advice", key = (store, sku))]
pub struct RestockAdvised {
    /// Where.
    pub store: StoreId,
    /// What.
    pub sku: Sku,
    /// How many, at least 1.
    pub quantity: u32,
    /// The basket that took the last unit.
    pub depleted_by: BasketId,
}
