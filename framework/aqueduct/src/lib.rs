//! Typed events over a commit log for Rust services.

pub use aqueduct_core as core;

#[cfg(feature = "app")]
pub use aqueduct_app::{
    App, AppBuilder, AppError, Config, ConfigError, Lag, Problem, Readiness, Status, caught_up, config, logs,
    serve, shutdown_signal, with_problems,
};

pub use aqueduct_core::{
    Aggregate, BoxError, DecodeError, Delivery, Draft, EncodeError, Envelope, Environment, Event, EventId,
    EventKey, EventSet, Handled, HandlerError, IntoEvents, Key, LogError, LogErrorKind, Record, RetryAfter,
    State, Terminal, Timestamp, TopicName, effects::RelayMode, log::TopicSpec,
};
#[cfg(feature = "embedded")]
pub use aqueduct_embedded as embedded;
#[cfg(feature = "kafka")]
pub use aqueduct_kafka as kafka;
#[cfg(feature = "memory")]
pub use aqueduct_memory as memory;
// A derive and the trait of its name come as one.
pub use aqueduct_derive::{Event, EventSet};
pub use aqueduct_runtime::{
    Bus, OnFailure, OperatorError, ParkedKey, PublishError, Replay, ReplayError, Replayed, Retry, Stall,
    StallKind, Subscription, SubscriptionError, Until, dead_letter_topic, parked, release, skip,
};
#[cfg(feature = "sqlite")]
pub use aqueduct_sql::{Database, DatabaseError, EventStore, Sqlite, StoreError, Tx, rusqlite};

mod connect;
pub mod prelude;

pub use connect::{connect, connect_with, system_environment};
