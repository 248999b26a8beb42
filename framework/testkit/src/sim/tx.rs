//! The extractor that lends a handler its transaction.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::{
    HandlerError,
    handler::{Context, FromDelivery},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{database::Stored, tables::Buffer};

/// What [`Effects::kind`](aqueduct_core::effects::Effects::kind) says.
pub(crate) const KIND: &str = "simulated";

pub(crate) type Shared = Arc<Mutex<Buffer>>;

/// What is lent.
pub(crate) struct Lease {
    stored: Arc<Stored>,
    buffer: Shared,
    generation: i64,
}

impl Lease {
    pub(crate) fn new(stored: &Arc<Stored>, generation: i64) -> Self {
        Self { stored: Arc::clone(stored), buffer: Arc::default(), generation }
    }

    pub(crate) fn buffer(&self) -> Shared {
        Arc::clone(&self.buffer)
    }
}

/// The transaction of this delivery, on the simulated database: rows by key, as JSON. What is written commits together
/// with the delivery's mark and the events that the handler returns, or not at all; where another transaction wrote a
/// row that this one has read, it does not commit, and is tried again.
pub struct Tx(Lease);

impl Tx {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a row, as this transaction sees it.
    ///
    /// # Errors
    /// It is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, serde_json::Error> {
        let mut buffer = self.buffer();
        if let Some(written) = buffer.writes.get(key) {
            return written.as_deref().map(serde_json::from_slice).transpose();
        }
        let row = self.0.stored.tables().rows.get(key).cloned();
        buffer.reads.entry(key.to_owned()).or_insert(row.as_ref().map(|row| row.written));
        row.map(|row| serde_json::from_slice(&row.value)).transpose()
    }

    /// Writes a row.
    ///
    /// # Errors
    /// The value does not serialize.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), serde_json::Error> {
        let value = serde_json::to_vec(value)?;
        self.buffer().writes.insert(key.to_owned(), Some(value));
        Ok(())
    }

    /// Removes a row.
    pub fn remove(&self, key: &str) {
        self.buffer().writes.insert(key.to_owned(), None);
    }

    /// The group's generation of the assignment that this delivery belongs to.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.0.generation
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tx").field(&KIND).finish()
    }
}

impl<S> FromDelivery<S> for Tx {
    const DATABASE: Option<&'static str> = Some(KIND);

    fn from_delivery(context: &mut Context<'_, S>) -> Result<Self, HandlerError> {
        let none = "there is no simulated transaction to take: the case has no database, or another argument took it";
        let lease = context.lease.take().and_then(|lease| lease.downcast::<Lease>().ok());
        lease.map(|lease| Self(*lease)).ok_or_else(|| none.into())
    }
}
