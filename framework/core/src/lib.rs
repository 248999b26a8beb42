//! Typed events over a commit log: the words, the ports and the handler model of Aqueduct.
//!
//! This crate does no I/O and knows no async runtime. Read it in this order:
//!
//! - [`event`]: [`Event`], [`EventSet`], what a type says about itself
//! - [`key`]: [`Key`], [`EventKey`], the partition of a key
//! - [`draft`]: [`Draft`], an event encoded and not yet published; [`IntoEvents`], what a handler returns
//! - [`envelope`]: [`Envelope`], an event's metadata; [`cloudevents`], its mapping to headers
//! - [`record`]: [`Record`], [`RecordBatch`], [`NewRecord`], [`Headers`], as the log stores them
//! - [`log`]: the port [`CommitLog`](log::CommitLog), with producers, consumers and readers
//! - [`effects`]: the port [`Effects`](effects::Effects), where handlers take effect once
//! - [`handler`]: [`Handler`], extractors, [`HandlerError`]
//! - [`aggregate`]: [`Aggregate`], state rebuilt from its own events
//! - [`group`]: who owns which partition, for logs whose groups live in one process
//! - [`environment`]: the clock and the random source, handed in
//! - [`url`]: where a log is, as it is written, and as it may be printed

pub mod aggregate;
pub mod cloudevents;
pub mod draft;
pub mod effects;
pub mod envelope;
pub mod environment;
pub mod error;
pub mod event;
pub mod group;
pub mod handler;
pub mod key;
pub mod log;
pub mod name;
mod planted;
pub mod record;
mod time;
pub mod trace;
pub mod url;

pub use aggregate::Aggregate;
pub use draft::{Draft, IntoDraft, IntoEvents};
pub use envelope::{Envelope, EventId};
pub use environment::{Environment, Timestamp};
pub use error::{BoxError, DecodeError, EncodeError, LogError, LogErrorKind};
pub use event::{Event, EventInfo, EventSet, EventType};
pub use handler::{Delivery, Handled, Handler, HandlerError, RetryAfter, State, Terminal};
pub use key::{EventKey, Key};
pub use name::TopicName;
#[doc(hidden)]
pub use planted::planted;
pub use record::{Headers, NewRecord, Record, RecordBatch};

/// A boxed future, as the ports return: one per batch, none per record.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
