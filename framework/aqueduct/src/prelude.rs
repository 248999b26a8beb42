//! What a service imports.

pub use aqueduct_core::{
    Aggregate, BoxError, Delivery, Draft, Envelope, EventId, EventKey, Handled, RetryAfter, State, Terminal,
    Timestamp,
};
// A derive and the trait of its name come as one.
pub use aqueduct_core::{Event, EventSet};
pub use aqueduct_derive::{Event, EventSet};
pub use serde::{Deserialize, Serialize};

pub use aqueduct_runtime::{Bus, OnFailure, Retry, Subscription};

#[cfg(feature = "app")]
pub use aqueduct_app::App;
#[cfg(feature = "sqlite")]
pub use aqueduct_sql::{Database, EventStore, Sqlite, Tx};
