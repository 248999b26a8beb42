//! The derives of Aqueduct: [`macro@Event`] for a struct, [`macro@EventSet`] for an enum of events.
//!
//! Users depend on `aqueduct`, which re-exports both beside the traits that they implement.

mod args;
mod errors;
mod event;
mod event_set;
mod grammar;

use proc_macro::TokenStream;

/// Implements `Event` for a struct.
///
/// ```
/// # use aqueduct_derive::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(name = "inventory.StockReserved", topic = "inventory.stock", crate = aqueduct_core)]
/// # struct StockReservedV1 { sku: String }
/// # impl From<StockReservedV1> for StockReserved {
/// #     fn from(old: StockReservedV1) -> Self { Self { store: 0, sku: old.sku } }
/// # }
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(
///     name = "inventory.StockReserved",
///     version = 2,
///     topic = "inventory.stock",
///     key = (store, sku),
///     upcasts = StockReservedV1,
///     # crate = aqueduct_core,
/// )]
/// struct StockReserved {
///     store: u32,
///     sku: String,
/// }
/// ```
///
/// | argument | | |
/// |---|---|---|
/// | `name` | required | the dotted name, for good: it is what the record says |
/// | `topic` | required | where the events are published |
/// | `version` | 1 | raise it when the payload changes incompatibly |
/// | `key` | none | one field or several: events with equal keys are handled in order |
/// | `upcasts` | none | the type of the version before this one; needs `From` of it |
/// | `crate` | `::aqueduct::core` | where the traits are found |
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    event::expand(&input).into()
}

/// Implements `EventSet` for an enum with one event in each variant, and `From` for each of them.
///
/// ```
/// # use aqueduct_derive::{Event, EventSet};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(name = "inventory.StockReserved", topic = "inventory.stock", crate = aqueduct_core)]
/// # struct StockReserved {}
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(name = "inventory.StockDepleted", topic = "inventory.stock", crate = aqueduct_core)]
/// # struct StockDepleted {}
/// #[derive(EventSet)]
/// # #[event(crate = aqueduct_core)]
/// enum StockEvent {
///     Reserved(StockReserved),
///     Depleted(StockDepleted),
/// }
/// ```
#[proc_macro_derive(EventSet, attributes(event))]
pub fn derive_event_set(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    event_set::expand(&input).into()
}
