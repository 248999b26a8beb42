//! Recommendation: learns what is bought together, and what each store needs.
//!
//! It reads `till.baskets` and `inventory.stock`. What inventory says is depleted disappears from its answers until it
//! is replenished, and for each depletion it publishes an advice on `recommendation.advice`. It calls no other
//! service.
//!
//! - `learning`: the rules: which pairs of a basket count, how much to order
//! - `handlers`: what it does with each event; [`app`]
//! - `store`, `schema.sql`: all SQL; [`open`], [`summary`]
//! - `http`: the API

mod handlers;
mod http;
mod learning;
mod store;

pub use handlers::app;
pub use store::{Summary, open, summary};
