//! Errors of encoding, decoding and the log: a context that says where, and a kind that programs branch on.

use std::{fmt, sync::Arc};

use crate::{event::EventType, log::Offset, name::NameError};

/// Any error, boxed at a composition edge.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An event could not be turned into a record.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode {event}: {kind}")]
pub struct EncodeError {
    /// The event's type.
    pub event: EventType,
    /// What went wrong.
    #[source]
    pub kind: EncodeErrorKind,
}

/// Why an event could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeErrorKind {
    /// Its name or its topic is not a name. The caller's fault.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its key fields give an empty key, which cannot order anything. The caller's fault.
    #[error("its key is empty")]
    EmptyKey,
    /// Its payload does not serialize.
    #[error("its payload does not serialize: {0}")]
    Payload(#[from] serde_json::Error),
}

/// A record could not be turned into an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No handler of the subscription takes this type, and it is not ignored by name.
    #[error(
        "unknown event type {name:?} version {version}: no handler takes it and `.ignore` does not name it"
    )]
    UnknownType {
        /// The dotted name on the record.
        name: String,
        /// The version on the record.
        version: u32,
    },
    /// The record has no type and its topic has no default type.
    #[error("the record carries no event type (no ce_type header) and the topic declares no default type")]
    NoType,
    /// Written by newer code: a version that this program does not know.
    #[error("{event} is known up to version {}, the record has version {version}: deploy the newer code first", event.version)]
    NewerVersion {
        /// The type as this program knows it.
        event: EventType,
        /// The version on the record.
        version: u32,
    },
    /// An old version for which no upcaster is declared.
    #[error("{event} has no upcaster from version {version} (declare `upcasts = ..` on the event)")]
    NoUpcaster {
        /// The type as this program knows it.
        event: EventType,
        /// The version on the record.
        version: u32,
    },
    /// The payload is not the JSON of this type.
    #[error("the payload is not a {event}: {source}")]
    Payload {
        /// The type that was expected.
        event: EventType,
        /// Where the JSON differs.
        source: serde_json::Error,
    },
    /// The record has no value, so it is no event.
    #[error("the record has no value (a tombstone), {event} needs one")]
    NoValue {
        /// The type that was expected.
        event: EventType,
    },
    /// The type is keyed, the record is not: its order would be undefined.
    #[error("the record has no key, {event} is keyed by ({key})")]
    MissingKey {
        /// The type that was expected.
        event: EventType,
        /// Its key fields.
        key: &'static str,
    },
    /// A header breaks the CloudEvents mapping.
    #[error("header {name}: {reason}")]
    Header {
        /// The header's name, escaped.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The record is larger than the subscription's limit.
    #[error("the record has {size} bytes, more than the limit of {limit} (max_record_bytes)")]
    TooLarge {
        /// Bytes of key, value and headers.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A structured-mode CloudEvent that does not parse.
    #[error("the structured CloudEvent does not parse: {0}")]
    Structured(serde_json::Error),
}

/// An error of the commit log. Cheap to clone: one failed batch fails many publishes.
#[derive(Clone)]
pub struct LogError(Arc<Inner>);

struct Inner {
    kind: LogErrorKind,
    message: String,
    source: Option<BoxError>,
}

/// What kind of error the log met; programs branch on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// A setting, URL or name is wrong. The caller's fault.
    Configuration,
    /// The log cannot be reached or opened now.
    Unreachable,
    /// The log refused the credentials: a wrong user or password, or a certificate that it does not take.
    Unauthenticated,
    /// The log showed a certificate that nobody signed whom this program trusts, or one that is not valid now.
    UnknownAuthority,
    /// The log showed a certificate of another host than the one that was asked for.
    WrongHost,
    /// The topic does not exist.
    TopicMissing,
    /// A record is larger than the log takes.
    RecordTooLarge,
    /// An earlier record of the same key failed; this one was not sent, so that nothing overtakes.
    Held,
    /// A newer producer with the same transactional id was opened.
    Fenced,
    /// The partition belongs to a newer generation.
    StaleGeneration,
    /// The group is in use where this process cannot join it.
    GroupInUse,
    /// The offset is not in the log: retention passed it, or the log went back.
    OffsetOutOfRange {
        /// The first offset that can be read.
        first: Offset,
        /// The offset after the last.
        end: Offset,
    },
    /// Stored bytes are damaged.
    Corrupt,
    /// Records that are in the log and can never be read: their bytes are damaged, or no client of this version
    /// understands them.
    Unreadable {
        /// The first offset that cannot be read.
        first: Offset,
        /// The first offset behind it that can.
        end: Offset,
    },
    /// The file is not ours, or of a newer format.
    Format,
    /// The storage failed (disk full, I/O error). After a failed sync the instance stays in this state.
    Storage,
    /// Whether the write took place is not known.
    UnknownOutcome,
    /// The log was closed.
    Closed,
}

impl LogError {
    /// An error with its place in words.
    #[must_use]
    pub fn new(kind: LogErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: None }))
    }

    /// An error with its place in words and its cause.
    #[must_use]
    pub fn with_source(kind: LogErrorKind, message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> LogErrorKind {
        self.0.kind
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogError({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for LogError {}

impl From<NameError> for LogError {
    fn from(error: NameError) -> Self {
        Self::new(LogErrorKind::Configuration, error.to_string())
    }
}
