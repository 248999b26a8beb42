//! From a URL to a bus.

use std::sync::Arc;

use aqueduct_core::{
    Environment, LogError, LogErrorKind,
    environment::{Random, SystemClock},
    log::CommitLog,
};
use aqueduct_runtime::Bus;
use rand::RngCore;

/// The URL schemes of this build.
const SCHEMES: &[&str] = &[
    #[cfg(feature = "embedded")]
    "embedded:PATH",
    #[cfg(feature = "memory")]
    "memory:",
];

/// The machine's random source.
#[derive(Debug, Clone, Copy)]
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// The clock and the random source of the machine.
#[must_use]
pub fn system_environment() -> Environment {
    Environment::new(SystemClock, SystemRandom)
}

/// Connects to the log that `url` names: `embedded:./shop.db` (`?partitions=8`), or `memory:`.
///
/// # Errors
/// The scheme is not one of this build, a parameter does not exist, or the log cannot be opened.
pub async fn connect(url: &str) -> Result<Bus, LogError> {
    connect_with(url, system_environment()).await
}

/// Connects with a clock and a random source of the caller's.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(url: &str, environment: Environment) -> Result<Bus, LogError> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    let log: Arc<dyn CommitLog> = match scheme {
        #[cfg(feature = "embedded")]
        "embedded" => {
            let options = aqueduct_embedded::EmbeddedOptions::parse(url, environment.clone())?;
            aqueduct_embedded::EmbeddedLog::open(options).await?
        }
        #[cfg(feature = "memory")]
        "memory" => Arc::new(aqueduct_memory::MemoryLog::new(8)),
        "kafka" => {
            let message =
                "the log URL's scheme kafka: needs the feature `kafka`, which this build does not have";
            return Err(LogError::new(LogErrorKind::Configuration, message));
        }
        other => {
            let known = SCHEMES.join(", ");
            let message = format!("the log URL's scheme {other:?} is not known; this build has {known}");
            return Err(LogError::new(LogErrorKind::Configuration, message));
        }
    };
    Bus::open(log, environment).await
}
