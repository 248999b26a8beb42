//! Typed events over a commit log for Rust services.

pub use aqueduct_core as core;

#[cfg(feature = "app")]
pub use aqueduct_app::{
    App, AppBuilder, AppError, Config, ConfigError, Lag, Problem, Readiness, Status, caught_up, config, logs, serve,
};
#[cfg(feature = "embedded")]
pub use aqueduct_embedded as embedded;
#[cfg(feature = "memory")]
pub use aqueduct_memory as memory;
pub use aqueduct_runtime::{Bus, OnFailure, PublishError, Retry, Subscription, SubscriptionError, dead_letter_topic};
#[cfg(feature = "sqlite")]
pub use aqueduct_sql::{self as sql, rusqlite};

mod connect;
pub mod prelude;

pub use connect::{connect, connect_with, system_environment};
