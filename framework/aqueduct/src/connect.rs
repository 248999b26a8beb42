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
    #[cfg(feature = "kafka")]
    "kafka://HOST:PORT",
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

/// Connects to the log that `url` names: `embedded:./shop.db` (`?partitions=8`), `kafka://broker:9092`
/// (`?partitions=8`), or `memory:`.
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
    let log = open(url, &environment).await?;
    Bus::open(log, environment).await
}

#[cfg_attr(not(feature = "embedded"), allow(unused_variables, reason = "only a durable log needs a clock"))]
async fn open(url: &str, environment: &Environment) -> Result<Arc<dyn CommitLog>, LogError> {
    match url.split_once(':').map_or(url, |(scheme, _)| scheme) {
        #[cfg(feature = "embedded")]
        "embedded" => {
            let options = aqueduct_embedded::EmbeddedOptions::parse(url, environment.clone())?;
            Ok(aqueduct_embedded::EmbeddedLog::open(options).await?)
        }
        #[cfg(feature = "kafka")]
        "kafka" => {
            let options = aqueduct_kafka::KafkaOptions::parse(url)?;
            Ok(aqueduct_kafka::KafkaLog::connect(options).await?)
        }
        #[cfg(feature = "memory")]
        "memory" if url != "memory:" => {
            let shown = aqueduct_core::url::shown(url);
            Err(configuration(format!("{shown:?} is not a log: expected memory:")))
        }
        #[cfg(feature = "memory")]
        "memory" => Ok(Arc::new(aqueduct_memory::MemoryLog::new(8))),
        scheme => Err(unknown(scheme, SCHEMES)),
    }
}

fn unknown(scheme: &str, schemes: &[&str]) -> LogError {
    let known = if schemes.is_empty() { "no log" } else { &schemes.join(" and ") };
    let wrong = if ["kafka", "embedded", "memory"].contains(&scheme) {
        format!("needs the feature {scheme:?} of the crate aqueduct")
    } else {
        "is not known".to_owned()
    };
    configuration(format!("the log URL's scheme {scheme:?} {wrong}; this build has {known}"))
}

fn configuration(message: String) -> LogError {
    LogError::new(LogErrorKind::Configuration, message)
}

#[cfg(test)]
mod tests {
    use super::unknown;

    /// P12. Red when a log that was left out of the build is told as one that nobody knows.
    #[test]
    fn a_log_that_was_left_out_names_its_feature() {
        assert_eq!(
            unknown("kafka", &["embedded:PATH", "memory:"]).to_string(),
            "the log URL's scheme \"kafka\" needs the feature \"kafka\" of the crate aqueduct; this build has embedded:PATH and memory:"
        );
        assert_eq!(
            unknown("memory", &[]).to_string(),
            "the log URL's scheme \"memory\" needs the feature \"memory\" of the crate aqueduct; this build has no log"
        );
    }
}
