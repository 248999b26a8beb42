//! When the database fails: what is told, and whether the instance can go on.

use aqueduct_core::{LogError, LogErrorKind};

use crate::{
    error::{is_full, is_io_failure},
    shared::lock,
    writer::Writer,
};

/// Why a transaction was rolled back.
pub(crate) struct Failed {
    pub(crate) error: LogError,
    /// For lack of room only.
    pub(crate) full: bool,
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self { error, full: false }
    }
}

impl Writer {
    /// The commit went well, its note did not: without it a log that goes back would not be noticed, so nobody is
    /// told that the records are stored, nor that they are not.
    pub(crate) fn unnoted(&mut self, error: &std::io::Error) -> LogError {
        let path = self.shared.place.path.display();
        let failed = format!("{path}: the high-water file could not be written");
        let poison = LogError::with_source(
            LogErrorKind::Storage,
            format!("{failed}; nothing is acknowledged any more, open the log again"),
            error.to_string(),
        );
        let unknown = LogError::with_source(
            LogErrorKind::UnknownOutcome,
            format!("{failed}; what was just written is in the log, but not acknowledged"),
            error.to_string(),
        );
        self.poison(poison);
        unknown
    }

    /// From here on nothing is acknowledged. Members could settle nothing, so others get their partitions.
    fn poison(&mut self, poison: LogError) {
        tracing::error!(error = %poison, "embedded log: this instance acknowledges nothing any more");
        lock(&self.shared.groups).fail(&poison);
        self.poison = Some(poison);
    }

    fn full(&self) -> String {
        let path = self.shared.place.path.display();
        match self.shared.options.max_bytes {
            Some(limit) => {
                format!("{path}: the log is full (max_bytes = {limit}); nothing of this is stored")
            }
            None => format!("{path}: the disk is full; nothing of this is stored"),
        }
    }

    /// Turns a failure into an error of the log; after an I/O failure nothing is acknowledged any more.
    pub(crate) fn note_failure(&mut self, error: &rusqlite::Error, tried: &str) -> LogError {
        let path = self.shared.place.path.clone();
        let text = error.to_string();
        if is_io_failure(error) && !aqueduct_core::planted("embedded-failed-sync-forgotten") {
            let poison = LogError::with_source(
                LogErrorKind::Storage,
                format!(
                    "{}: a write to the disk failed; what is on it is not known, open the log again",
                    path.display()
                ),
                text.clone(),
            );
            self.poison(poison);
        }
        if is_full(error) {
            return LogError::with_source(LogErrorKind::Storage, self.full(), text);
        }
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                LogErrorKind::Corrupt
            }
            _ => LogErrorKind::Storage,
        };
        LogError::with_source(kind, format!("{}: {tried}", path.display()), text)
    }
}
