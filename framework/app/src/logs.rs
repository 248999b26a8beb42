//! What is printed: one line per happening on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{Format, Level, Logs};

/// Starts printing, for the whole process; what a payload says is escaped.
///
/// # Errors
/// The process has a subscriber already.
pub fn init(logs: Logs) -> Result<(), TryInitError> {
    let level = match logs.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let registry = tracing_subscriber::registry().with(Targets::new().with_default(level));
    match logs.format {
        Format::Text => {
            let colours = io::stderr().is_terminal();
            registry
                .with(fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(colours))
                .try_init()
        }
        Format::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).try_init(),
    }
}
