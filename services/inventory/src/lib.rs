//! Inventory: keeps the stock of every store and product from what the tills say, runs out, and orders on advice.
//!
//! A shelf is an aggregate with an event stream of its own (`shelf/<store>/<sku>`). A basket decides all its products
//! in one transaction. It reads `till.baskets` and `recommendation.advice`, publishes `inventory.stock`, and calls
//! no other service.
//!
//! - `shelf`: the aggregate, its rule for the opening stock
//! - `handlers`: what it does with each event; [`app`]
//! - `store`, `schema.sql`: all SQL; [`open`], [`summary`]
//! - `http`: the API

mod handlers;
mod http;
mod shelf;
mod store;

pub use handlers::app;
pub use store::{Summary, open, summary};
