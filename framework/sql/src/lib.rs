//! Effects once, on a service's own database: its positions and marks, its outbox with the relay, its event store.
//!
//! - [`Database`]: one SQLite file of one service; implements the port [`Effects`](aqueduct_core::effects::Effects)
//! - [`Tx`]: the extractor that lends a handler the connection, inside the transaction of its delivery
//! - [`EventStore`]: append-only streams of an aggregate's events, with a snapshot beside each
//!
//! All tables of ours are named `aqueduct_*`; `docs/formats.md` describes them.

mod error;
mod event_store;
mod sqlite;
mod tx;

pub use error::{DatabaseError, StoreError};
pub use event_store::EventStore;
pub use rusqlite;
pub use sqlite::{Database, Options, Sqlite};
pub use tx::{Backend, Tx};
