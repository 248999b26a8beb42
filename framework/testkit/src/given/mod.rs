//! Given, when, then: for aggregates and for handlers, in the few lines that a test should have.
//!
//! ```
//! # use aqueduct_core::{Aggregate, Delivery, Handled, State};
//! # use aqueduct_derive::Event;
//! # use serde::{Deserialize, Serialize};
//! use aqueduct_testkit::given;
//!
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
//! #[event(name = "door.Moved", topic = "doors", key = door, crate = aqueduct_core)]
//! struct Moved { door: u32, open: bool }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Door { open: bool }
//!
//! # impl Aggregate for Door {
//! #     const STATE_VERSION: u32 = 1;
//! #     type Command = bool;
//! #     type Event = Moved;
//! #     type Refusal = &'static str;
//! #     fn decide(&self, open: bool) -> Result<Vec<Moved>, &'static str> {
//! #         if self.open == open { Err("it is so already") } else { Ok(vec![Moved { door: 1, open }]) }
//! #     }
//! #     fn evolve(&mut self, event: &Moved) { self.open = event.open; }
//! # }
//! given::aggregate(Door { open: false })
//!     .events([Moved { door: 1, open: true }])
//!     .when(false)
//!     .then([Moved { door: 1, open: false }]);
//!
//! async fn log(event: Moved) -> Handled<Moved> { Ok(Moved { open: !event.open, ..event }) }
//! # let test = async {
//! given::handler(log)
//!     .when(Moved { door: 1, open: true })
//!     .await
//!     .then([Moved { door: 1, open: false }]);
//! # };
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
//! ```

mod aggregate;
mod diff;
mod handler;

pub use aggregate::{Decided, GivenAggregate, aggregate};
pub use handler::{GivenHandler, Handled, handler};
