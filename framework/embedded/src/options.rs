//! Where the log is and what it is like.

use std::path::{Path, PathBuf};

use aqueduct_core::{Environment, LogError, LogErrorKind};

const DEFAULT_PARTITIONS: i32 = 8;
const MAX_PARTITIONS: i32 = 1_024;
const DEFAULT_MAX_RECORD_BYTES: usize = 1 << 20;
/// SQLite's own limit for one value is 1 GB; a read copies a record into one arena, so ours stays well below.
const MAX_MAX_RECORD_BYTES: usize = 256 << 20;
const PARAMETERS: [&str; 2] = ["partitions", "max_record_bytes"];

/// Where an embedded log is and what it is like.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    pub(crate) path: PathBuf,
    pub(crate) partitions: i32,
    pub(crate) max_record_bytes: usize,
    pub(crate) environment: Environment,
}

impl EmbeddedOptions {
    /// A log at `path` with 8 partitions per topic and records of at most 1 MiB.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, environment: Environment) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            partitions: DEFAULT_PARTITIONS,
            max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
            environment,
        }
    }

    /// Reads `embedded:PATH?partitions=N&max_record_bytes=N`.
    ///
    /// # Errors
    /// `Configuration`: another scheme, no path, an unknown parameter, or a value that is out of range.
    pub fn parse(url: &str, environment: Environment) -> Result<Self, LogError> {
        let Some(rest) = url.strip_prefix("embedded:") else {
            return Err(configuration(format!("{url:?} is not an embedded log: expected embedded:PATH")));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Self::new(path, environment);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || configuration(format!("{url:?}: {name} must be a whole number, not {value:?}"));
            match name {
                "partitions" => options.partitions = value.parse().map_err(|_| bad())?,
                "max_record_bytes" => options.max_record_bytes = value.parse().map_err(|_| bad())?,
                _ => return Err(unknown(url, name)),
            }
        }
        options.check()?;
        Ok(options)
    }

    /// How many partitions a topic has unless it says so itself: 1 to 1,024.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// The most bytes of key, value and headers that a record may have.
    #[must_use]
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.max_record_bytes = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        if self.path.as_os_str().is_empty() {
            return Err(configuration("the embedded log has no path: expected embedded:PATH".to_owned()));
        }
        check_partitions("", self.partitions)?;
        if !(1..=MAX_MAX_RECORD_BYTES).contains(&self.max_record_bytes) {
            return Err(configuration(format!(
                "max_record_bytes must be from 1 to {MAX_MAX_RECORD_BYTES}, not {}",
                self.max_record_bytes
            )));
        }
        Ok(())
    }
}

/// Checks a number of partitions; `of` says whose.
pub(crate) fn check_partitions(of: &str, partitions: i32) -> Result<(), LogError> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(configuration(format!("partitions{of} must be from 1 to {MAX_PARTITIONS}, not {partitions}")))
}

fn unknown(url: &str, name: &str) -> LogError {
    let nearest = PARAMETERS
        .iter()
        .min_by_key(|right| strsim::damerau_levenshtein(name, right))
        .map_or_else(String::new, |right| format!(", did you mean {right:?}?"));
    configuration(format!("{url:?}: unknown parameter {name:?}{nearest}"))
}

pub(crate) fn configuration(message: String) -> LogError {
    LogError::new(LogErrorKind::Configuration, message)
}
