//! What can go wrong with a service's database.

use std::{path::PathBuf, sync::Arc};

use aqueduct_core::{BoxError, DecodeError, EncodeError};

/// An error of a service's database. All but the caller's mistakes name the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BoxError,
    },
    /// The linked SQLite is too old: versions before 3.51.3 can corrupt a write-ahead log.
    #[error("SQLite {found} is linked, {needed} or newer is needed")]
    OldSqlite {
        /// The version that is linked.
        found: &'static str,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The file belongs to another program.
    #[error("{}: is the file of another program (application_id {found:#x}, a service database has {ours:#x})", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Its application id.
        found: i32,
        /// The id of our files.
        ours: i32,
    },
    /// The file was written by a newer Aqueduct.
    #[error("{}: its tables have format {found}, this program knows up to {known}: deploy the newer code first", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of its tables.
        found: i64,
        /// The format that this program writes.
        known: i64,
    },
    /// A setting that durability rests on did not take.
    #[error("{}: PRAGMA {pragma} is {found}, it must be {needed}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// What it reads back as.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// This process has the file open already: one writer per process.
    #[error("{}: is open in this process already; clone that Database instead", path.display())]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },
    /// The service's own schema does not apply.
    #[error("{}: the service's schema does not apply: {source}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BoxError,
    },
    /// A statement failed; what was done with it is rolled back.
    #[error("{}: {source}", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The commit failed; nothing was written, trying again is safe.
    #[error("{}: not committed: {reason}", path.display())]
    NotCommitted {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: Arc<str>,
    },
    /// A sync failed, in this commit or an earlier one, so what the disk holds is not known: this instance writes no
    /// more. Restart the process once the disk is healthy.
    #[error("{}: writes no more: {reason}", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: Arc<str>,
    },
    /// The database was closed.
    #[error("{}: is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// The blocking work panicked or was cut off by the runtime's shutdown.
    #[error("{}: the work did not end: {source}", path.display())]
    Work {
        /// The file.
        path: PathBuf,
        /// How it ended.
        source: tokio::task::JoinError,
    },
}

/// An error of the event store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Someone else appended between loading and appending, which only happens outside a turn: execute again.
    #[error("stream {stream:?} is at version {found}, not at {expected}")]
    Conflict {
        /// The stream.
        stream: String,
        /// The version that was decided on.
        expected: i64,
        /// The version that it has; 0 where there is no such stream.
        found: i64,
    },
    /// A stored event is not an event of the aggregate.
    #[error("stream {stream:?} version {version}: {source}")]
    Decode {
        /// The stream.
        stream: String,
        /// The event's version in it.
        version: i64,
        /// What is wrong.
        source: DecodeError,
    },
    /// A version is missing: the file was changed by other means.
    #[error("stream {stream:?} has version {found} where {expected} should stand")]
    Gap {
        /// The stream.
        stream: String,
        /// The version that is next.
        expected: i64,
        /// What was found there.
        found: i64,
    },
    /// An event does not encode.
    #[error("stream {stream:?}: {source}")]
    Encode {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: EncodeError,
    },
    /// The state does not serialize.
    #[error("stream {stream:?}: its state does not serialize: {source}")]
    Snapshot {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A statement failed.
    #[error("stream {stream:?}: {source}")]
    Sql {
        /// The stream.
        stream: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}
