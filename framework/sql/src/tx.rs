//! The extractor that lends a handler its transaction.

use std::{any::Any, fmt, ops::Deref};

use aqueduct_core::handler::{Context, FromDelivery, HandlerError};

/// A kind of database.
pub trait Backend: 'static {
    /// What it is called, as `Effects::kind` says it.
    const NAME: &'static str;
    /// What a handler borrows.
    type Lease: Any + Send + Deref<Target = Self::Connection>;
    /// What that derefs to.
    type Connection;
}

/// The transaction of this delivery, lent: it derefs to the connection. What is written through it commits together
/// with the delivery's mark and the events that the handler returns, or not at all. The runtime commits; a handler
/// that keeps the `Tx` beyond its return fails its delivery.
pub struct Tx<DB: Backend>(DB::Lease);

impl<DB: Backend> Deref for Tx<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<DB: Backend> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tx").field(&DB::NAME).finish()
    }
}

impl<DB: Backend, S> FromDelivery<S> for Tx<DB> {
    const DATABASE: Option<&'static str> = Some(DB::NAME);

    fn from_delivery(context: &mut Context<'_, S>) -> Result<Self, HandlerError> {
        let lease = context.lease.take().ok_or(NoTransaction { kind: DB::NAME })?;
        match lease.downcast::<DB::Lease>() {
            Ok(lease) => Ok(Self(*lease)),
            Err(other) => {
                context.lease = Some(other);
                Err(NoTransaction { kind: DB::NAME }.into())
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {kind} transaction to take: the app has no such database, or another argument took the Tx already"
)]
struct NoTransaction {
    kind: &'static str,
}
