//! Where the log is and what it is like.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use aqueduct_core::{Environment, LogError, LogErrorKind, url::LogUrl};

const DEFAULT_PARTITIONS: i32 = 8;
const MAX_PARTITIONS: i32 = 1_024;
const DEFAULT_MAX_RECORD_BYTES: usize = 1 << 20;
/// SQLite's own limit for one value is 1 GB; a read copies a record into one arena, so ours stays well below.
const MAX_MAX_RECORD_BYTES: usize = 256 << 20;
const DEFAULT_SESSION: Duration = Duration::from_secs(10);
const SESSIONS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3_600);
/// Room for the tables of an empty log.
const MIN_MAX_BYTES: u64 = 128 << 10;
const PARAMETERS: [&str; 4] = ["partitions", "max_record_bytes", "session", "max_bytes"];

/// Where an embedded log is and what it is like.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    pub(crate) path: PathBuf,
    pub(crate) partitions: i32,
    pub(crate) max_record_bytes: usize,
    pub(crate) session: Duration,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) apart: bool,
    pub(crate) environment: Environment,
}

impl EmbeddedOptions {
    /// A log at `path` with 8 partitions per topic, records of at most 1 MiB, sessions of 10 s and no limit of its own
    /// to its size.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, environment: Environment) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            partitions: DEFAULT_PARTITIONS,
            max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
            session: DEFAULT_SESSION,
            max_bytes: None,
            apart: false,
            environment,
        }
    }

    /// Reads `embedded:PATH?partitions=N&max_record_bytes=N&session=10s&max_bytes=N`.
    ///
    /// # Errors
    /// `Configuration`: another scheme, no path, an unknown parameter, or a value that is out of range.
    pub fn parse(url: &str, environment: Environment) -> Result<Self, LogError> {
        let url = LogUrl::parse(url, "embedded:", "PATH")?;
        let mut options = Self::new(url.place(), environment);
        for (name, value) in url.parameters() {
            let number = "a whole number";
            match name {
                "partitions" => options.partitions = url.read(name, value, number)?,
                "max_record_bytes" => options.max_record_bytes = url.read(name, value, number)?,
                "session" => {
                    options.session = parse_duration(value).ok_or_else(|| {
                        url.wrong(&format!("{name} must be like 10s or 1500ms, not {value:?}"))
                    })?;
                }
                "max_bytes" => options.max_bytes = Some(url.read(name, value, number)?),
                _ => return Err(url.unknown(name, PARAMETERS)),
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

    /// How long a member of a group may stand still: its process does not run, or it does not answer a revoke. After
    /// that others get its partitions. 500 ms to an hour. A killed process is noticed at once, whatever this is.
    #[must_use]
    pub fn session(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// The most bytes that the database may have, at least 128 KiB; its write-ahead log comes on top. A full log refuses
    /// what does not fit as `Storage`, stores nothing of it, and goes on when retention or compaction made room.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// An instance of its own, even where this process has the file open: for a test that plays two processes.
    #[must_use]
    pub fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    /// Whether an instance that was opened with `self` can serve who asks for `other`.
    pub(crate) fn agree(&self, other: &Self) -> bool {
        let of = |options: &Self| {
            (options.partitions, options.max_record_bytes, options.session, options.max_bytes)
        };
        of(self) == of(other)
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
        if !SESSIONS.contains(&self.session) {
            return Err(configuration(format!(
                "session must be from 500 ms to 1 h, not {} ms",
                self.session.as_millis()
            )));
        }
        if let Some(limit) = self.max_bytes.filter(|limit| *limit < MIN_MAX_BYTES) {
            return Err(configuration(format!("max_bytes must be at least {MIN_MAX_BYTES}, not {limit}")));
        }
        Ok(())
    }
}

impl fmt::Display for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partitions = {}, max_record_bytes = {}, session = {} ms",
            self.partitions,
            self.max_record_bytes,
            self.session.as_millis()
        )?;
        self.max_bytes.map_or(Ok(()), |limit| write!(f, ", max_bytes = {limit}"))
    }
}

/// `10s` or `1500ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

/// Checks a number of partitions; `of` says whose.
pub(crate) fn check_partitions(of: &str, partitions: i32) -> Result<(), LogError> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(configuration(format!("partitions{of} must be from 1 to {MAX_PARTITIONS}, not {partitions}")))
}

pub(crate) fn configuration(message: String) -> LogError {
    LogError::new(LogErrorKind::Configuration, message)
}
