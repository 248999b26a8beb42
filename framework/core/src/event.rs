//! Event types: what a Rust type says about the facts it stands for.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    draft::Draft,
    error::{DecodeError, EncodeError},
    key::Key,
    name,
};

/// A stable dotted name and a version, such as `inventory.StockReserved` v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType {
    /// The dotted name.
    pub name: &'static str,
    /// The version, from 1.
    pub version: u32,
}

impl EventType {
    /// A type by name and version. In a `const` a bad name does not compile.
    ///
    /// # Panics
    /// The name breaks the grammar of [`name::fault`], or the version is 0.
    #[must_use]
    #[track_caller]
    pub const fn new(name: &'static str, version: u32) -> Self {
        assert!(name::fault(name).is_none(), "an event name is letters, digits, '.', '_' and '-'");
        assert!(version > 0, "event versions start at 1");
        Self { name, version }
    }
}

impl fmt::Display for EventType {
    /// As in the `ce_type` header: the name alone for version 1, `.vN` appended from version 2 on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.version > 1 {
            write!(f, ".v{}", self.version)?;
        }
        Ok(())
    }
}

/// All that is fixed about an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventInfo {
    /// Name and version.
    pub event: EventType,
    /// The topic that its events are published to.
    pub topic: &'static str,
    /// The key fields as written in the declaration, or none.
    pub key: Option<&'static str>,
}

/// A fact that happened. Derive it (`aqueduct::Event`, with a test of this example there):
///
/// ```text
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "inventory.StockReserved", version = 2, topic = "inventory.stock", key = (store, sku), upcasts = V1)]
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "derive `Event` and name it: #[event(name = \"service.SomethingHappened\", topic = \"..\")]"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What is fixed about the type.
    const INFO: EventInfo;

    /// The key of this event, or none where the type declares none.
    fn key(&self) -> Option<Key>;

    /// Reads a payload that was written as `version`, upcasting older ones.
    ///
    /// # Errors
    /// The payload is not JSON of that version, or the version is not known.
    fn decode(version: u32, payload: &[u8]) -> Result<Self, DecodeError>;
}

/// Decodes JSON of exactly this type; what derived code calls for the current version.
///
/// # Errors
/// The payload is not JSON of `E`, or nested deeper than 128.
pub fn decode_json<E: Event>(payload: &[u8]) -> Result<E, DecodeError> {
    serde_json::from_slice(payload).map_err(|source| DecodeError::Payload { event: E::INFO.event, source })
}

/// Whether two names are equal, for assertions in derived code: `==` on `str` is not `const` yet.
#[doc(hidden)]
#[must_use]
pub const fn same_name(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// One event type, or an enum of several that derives `EventSet`: what a handler takes, what a stream holds.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither an event nor a set of events",
    note = "derive `Event` for one type of event, or `EventSet` for an enum with one event in each variant"
)]
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The types in the set.
    const EVENTS: &'static [EventInfo];

    /// Reads a payload of the type called `name`.
    ///
    /// # Errors
    /// The name is not in the set, or as [`Event::decode`].
    fn read(name: &str, version: u32, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Which type of the set this is.
    fn info(&self) -> EventInfo;

    /// Encodes this event.
    ///
    /// # Errors
    /// It does not serialize, or its key is empty.
    fn draft(&self) -> Result<Draft, EncodeError>;
}

#[diagnostic::do_not_recommend]
impl<E: Event> EventSet for E {
    const EVENTS: &'static [EventInfo] = &[E::INFO];

    fn read(name: &str, version: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        if name == E::INFO.event.name {
            E::decode(version, payload)
        } else {
            Err(DecodeError::UnknownType { name: name.to_owned(), version })
        }
    }

    fn info(&self) -> EventInfo {
        E::INFO
    }

    fn draft(&self) -> Result<Draft, EncodeError> {
        Draft::of(self)
    }
}
