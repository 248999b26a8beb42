//! The events that the services of the sample shop exchange: all that they know of each other.
//!
//! - [`ids`]: what names a store, a product, a basket, a household
//! - [`till`]: what the tills say
//! - [`inventory`]: what happens to the stock
//! - [`recommendation`]: what the recommendation service advises

pub mod ids;
pub mod inventory;
pub mod recommendation;
pub mod till;

pub use ids::{BasketId, HouseholdId, Sku, StoreId};
