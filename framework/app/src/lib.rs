//! One life of a service: configuration, start, run, drain in order.
//!
//! - [`app`]: [`App`] and its builder
//! - [`config`]: [`Config`], from a TOML file and the environment
//! - [`status`]: [`Status`], what the app says of itself; [`caught_up`]
//! - [`http`]: health, readiness and metrics beside the service's own routes; [`Problem`] (RFC 9457)
//! - [`shutdown_signal`]: Ctrl-C or SIGTERM
//! - [`logs`]: what is printed

pub mod app;
pub mod config;
pub mod http;
pub mod logs;
mod metrics;
mod problem;
mod signal;
pub mod status;

pub use app::{App, AppBuilder, AppError};
pub use config::{Config, ConfigError};
pub use http::serve;
pub use problem::{Problem, with_problems};
pub use signal::shutdown_signal;
pub use status::{Lag, Readiness, Status, caught_up};
