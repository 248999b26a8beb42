//! A service's database.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aqueduct_core::environment::{Clock, SystemClock};
use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    gate::{Gate, Turn},
    housekeeping::Housekeeping,
    open_files::OpenFile,
    readers::Readers,
    schema,
    session::Ours,
    writer,
};
use crate::error::DatabaseError;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How a database is opened: [`Database::options`].
#[must_use = "options do nothing until `open`"]
pub struct Options {
    event_marks: Option<Duration>,
    clock: Arc<dyn Clock>,
}

impl Options {
    /// How long the ids of events are remembered, at least; none keeps them for good. Seven days by default. What
    /// counts is time in which the subscription was at work: while its service is down, no id is forgotten.
    pub fn event_marks(self, retention: Option<Duration>) -> Self {
        Self { event_marks: retention, ..self }
    }

    /// The clock that dates marks and staged events; the machine's by default.
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Opens the file, as [`Database::open`] does.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub async fn open(self, path: impl AsRef<Path>, schema: &str) -> Result<Database, DatabaseError> {
        let (path, schema) = (path.as_ref().to_path_buf(), schema.to_owned());
        let shown = path.clone();
        match tokio::task::spawn_blocking(move || Inner::open(&path, &schema, self)).await {
            Ok(opened) => Ok(Database { inner: Arc::new(opened?) }),
            Err(source) => Err(DatabaseError::Work { path: shown, source }),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("event_marks", &self.event_marks).finish_non_exhaustive()
    }
}

/// One SQLite file of one service: its own tables, and ours beside them. Cheap to clone.
///
/// One connection writes; whoever wants to write queues for it, and what queued during a sync shares the next one.
#[derive(Clone)]
pub struct Database {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) gate: Arc<Gate>,
    pub(super) readers: Arc<Readers>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) event_marks: Option<Duration>,
    ended: watch::Receiver<()>,
}

impl Database {
    /// Opens or makes the file, with our tables and the service's own. `schema` is run at every start, so each
    /// statement says `IF NOT EXISTS`.
    ///
    /// # Errors
    /// The file is of another program or a newer format, is open in this process already, cannot be opened, or the
    /// schema does not apply.
    pub async fn open(path: impl AsRef<Path>, schema: &str) -> Result<Self, DatabaseError> {
        Self::options().open(path, schema).await
    }

    /// The defaults, to be changed before opening.
    pub fn options() -> Options {
        Options { event_marks: Some(WEEK), clock: Arc::new(SystemClock) }
    }

    /// Reads, on a blocking thread and a connection that cannot write. It sees what was committed, not what is
    /// under way.
    ///
    /// # Errors
    /// What `read` returned, or the database is closed.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        self.inner.readers.read(read).await
    }

    /// Writes, in a turn of its own: `Ok` once it is committed and synced. On an error it is rolled back.
    ///
    /// # Errors
    /// What `write` returned, or the commit failed.
    pub async fn write<T: Send>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    ) -> Result<T, DatabaseError> {
        self.inner.write(Turn::Write, write).await
    }

    /// Lets what waits for its turn end, then closes the file. Later calls fail as closed.
    pub async fn close(&self) {
        // The last connection to close moves the write-ahead log into the file, which one that only reads cannot.
        self.inner.readers.close().await;
        self.inner.gate.close();
        let mut ended = self.inner.ended.clone();
        // The sender never sends: it is dropped with the writer's thread.
        while ended.changed().await.is_ok() {}
    }
}

impl Inner {
    fn open(path: &Path, schema: &str, options: Options) -> Result<Self, DatabaseError> {
        let canonical = canonical(path)?;
        let file = OpenFile::register(&canonical)
            .ok_or_else(|| DatabaseError::AlreadyOpen { path: canonical.clone() })?;
        let conn = schema::open(&canonical, schema)?;
        let ours = Ours::default();
        ours.set(true);
        ours.install(&conn)
            .map_err(|source| DatabaseError::Open { path: canonical.clone(), source: source.into() })?;
        let line = writer::Line::open(&canonical)
            .map_err(|error| DatabaseError::Open { path: canonical.clone(), source: error.into() })?;
        let gate = Gate::new(canonical.clone());
        let housekeeping = Housekeeping::new(options.event_marks, Arc::clone(&options.clock));
        let (end, ended) = watch::channel(());
        let writers_gate = Arc::clone(&gate);
        std::thread::Builder::new()
            .name("aqueduct-sqlite".to_owned())
            .spawn(move || {
                // Dropped in reverse order: nobody waits for a turn that cannot come, then the file is free, then
                // whoever waits for the end hears of it.
                let _end = end;
                let _file = file;
                let _ending = Ending(Arc::clone(&writers_gate));
                writer::run(&writers_gate, conn, &ours, &line, housekeeping);
            })
            .map_err(|error| DatabaseError::Open { path: canonical.clone(), source: error.into() })?;
        Ok(Self {
            gate,
            readers: Readers::new(canonical),
            clock: options.clock,
            event_marks: options.event_marks,
            ended,
        })
    }

    pub(super) async fn write<T>(
        &self,
        turn: Turn,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    ) -> Result<T, DatabaseError> {
        let mut session = self.gate.turn(turn).await?;
        session.start().map_err(|source| self.gate.sql(source))?;
        let result = write(session.conn()).map_err(|source| self.gate.sql(source))?;
        let outcome =
            session.finish(std::collections::HashMap::new()).map_err(|source| self.gate.sql(source))?;
        self.gate.outcome(outcome).await?;
        Ok(result)
    }
}

/// However the writer's thread ends.
struct Ending(Arc<Gate>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&"the writer's thread panicked".into());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.readers.abandon();
        self.gate.close();
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.inner.gate.path()).finish_non_exhaustive()
    }
}

/// The file's one name, so that the same file is not opened twice by different paths.
fn canonical(path: &Path) -> Result<PathBuf, DatabaseError> {
    let failed =
        |error: std::io::Error| DatabaseError::Open { path: path.to_path_buf(), source: error.into() };
    if path.exists() {
        return path.canonicalize().map_err(failed);
    }
    let name = path.file_name().ok_or_else(|| {
        failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not the name of a file"))
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(parent.canonicalize().map_err(failed)?.join(name))
}
