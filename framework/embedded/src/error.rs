//! SQLite's errors as errors of the log.

use std::path::Path;

use aqueduct_core::{LogError, LogErrorKind};
use rusqlite::ErrorCode;

/// What `error` means for the log, with the file and what was tried.
pub(crate) fn sqlite(path: &Path, tried: &str, error: rusqlite::Error) -> LogError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => LogErrorKind::Corrupt,
        Some(ErrorCode::NotADatabase) => LogErrorKind::Format,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            LogErrorKind::Unreachable
        }
        _ => LogErrorKind::Storage,
    };
    LogError::with_source(kind, format!("{}: {tried}", path.display()), error)
}

/// Whether a write may have reached the disk in part, so that nothing written later can be trusted (P1).
pub(crate) fn is_io_failure(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
}

/// Whether there was no room: the transaction is rolled back whole, and the next one may fit.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

pub(crate) fn closed() -> LogError {
    LogError::new(LogErrorKind::Closed, "the embedded log was closed")
}
