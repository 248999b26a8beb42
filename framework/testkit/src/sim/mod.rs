//! A seeded simulation of a service: the production app, unchanged, in several processes on one thread, with virtual
//! time, a log and a database that fail on command, crashes, pauses, rebalances, storms; then healing, and what must be
//! true at the end. A seed derives every option; the same seed runs the same way.
//!
//! Point it at your own handlers:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use aqueduct_core::{Handled, State};
//! use aqueduct_derive::Event;
//! use aqueduct_runtime::Subscription;
//! use aqueduct_testkit::sim::{Case, simulate};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(name = "till.Paid", topic = "paid", key = account, crate = aqueduct_core)]
//! struct Paid { account: String, payment: u64 }
//!
//! /// Outside of the processes: it sees a payment again where a process was killed before it settled.
//! type Ledger = Arc<Mutex<std::collections::BTreeSet<u64>>>;
//!
//! async fn on_paid(paid: Paid, State(ledger): State<Ledger>) -> Handled {
//!     ledger.lock().unwrap().insert(paid.payment);
//!     Ok(())
//! }
//!
//! simulate(0..20, |plan| {
//!     let ledger = Ledger::default();
//!     let kept = Arc::clone(&ledger);
//!     Case::new(
//!         |plan| plan.apply(Subscription::builder("bank").on(on_paid)),
//!         move |_| Arc::clone(&ledger),
//!     )
//!     .events((0..50).map(|payment| Paid { account: format!("a{}", payment % 5), payment }))
//!     .finally(move |world| match kept.lock().unwrap().len() + world.unacknowledged() >= 50 {
//!         true => Ok(()),
//!         false => Err("a payment is missing"),
//!     })
//! });
//! ```
//!
//! - [`simulate`], [`Case`]: what is run, and for which seeds
//! - [`Plan`]: what a seed stands for; [`Dice`]: what a case derives by itself
//! - [`Tx`]: the simulated database's transaction, for handlers that take effect once
//! - [`World`]: what is left at the end, for invariants; [`Observer`]: what happened on the way

mod case;
mod clock;
mod database;
mod dice;
mod observer;
mod plan;
mod process;
mod publisher;
mod relay;
mod run;
mod seeds;
mod tables;
mod tx;
mod watched;
mod weather;
mod world;

pub use case::Case;
pub use clock::VirtualClock;
pub use database::Rows;
pub use dice::Dice;
pub use observer::{Answer, Observer, Seen, Sent, Written};
pub use plan::{Fault, Plan, Publishing, Scheduled};
pub use process::Process;
pub use run::{Failure, run};
pub use seeds::simulate;
pub use tx::Tx;
pub use world::{Summary, World};
