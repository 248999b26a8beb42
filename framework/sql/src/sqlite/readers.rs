//! A few connections that only read: what they see is committed, and synced.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::schema;
use crate::error::DatabaseError;

const READERS: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, places: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() })
    }

    /// Runs `read` on a blocking thread.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| DatabaseError::Closed { path: self.path.clone() })?;
        let readers = Arc::clone(self);
        let work = move || {
            let _place = place;
            let idle = readers.idle().pop();
            let conn = match idle {
                Some(conn) => conn,
                None => schema::open_reader(&readers.path)?,
            };
            let result = read(&conn);
            // A closure that left a transaction open would keep an old snapshot; such a connection is thrown away.
            if conn.is_autocommit() && !readers.places.is_closed() {
                readers.idle().push(conn);
            }
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|source| DatabaseError::Sql { path: self.path.clone(), source }),
            Err(source) => Err(DatabaseError::Work { path: self.path.clone(), source }),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the reads under way, and closes their connections.
    pub(super) async fn close(&self) {
        // An error says that it was closed before.
        let _all = self.places.acquire_many(u32::try_from(READERS).unwrap_or(u32::MAX)).await;
        self.abandon();
    }

    /// Refuses further reads, and closes the connections that no read uses.
    pub(super) fn abandon(&self) {
        self.places.close();
        self.idle().clear();
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}
