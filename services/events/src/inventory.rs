//! What happens to the stock. The key is the shelf, a store's stock of one product, so its events stay in order.

use aqueduct::Event;
use serde::{Deserialize, Serialize};

use crate::ids::{BasketId, Sku, StoreId};

/// Units left the shelf with a basket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "inventory.StockReserved", topic = "inventory.stock", key = (store, sku))]
pub struct StockReserved {
    /// Where.
    pub store: StoreId,
    /// What.
    pub sku: Sku,
    /// For which basket.
    pub basket: BasketId,
    /// How many, at least 1.
    pub quantity: u32,
}

/// The shelf is empty. Once until it is replenished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "inventory.StockDepleted", topic = "inventory.stock", key = (store, sku))]
pub struct StockDepleted {
    /// Where.
    pub store: StoreId,
    /// What.
    pub sku: Sku,
    /// The basket that took the last unit.
    pub basket: BasketId,
    /// Units that this basket wanted beyond it. What later baskets are refused is in no event.
    pub refused: u32,
}

/// Units came to the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "inventory.StockReplenished", topic = "inventory.stock", key = (store, sku))]
pub struct StockReplenished {
    /// Where.
    pub store: StoreId,
    /// What.
    pub sku: Sku,
    /// How many, at least 1.
    pub quantity: u32,
}
