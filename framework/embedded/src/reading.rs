//! The reader's thread: it runs queries in turn, looks for commits of other processes, and watches for a writer
//! that waits too long.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId},
};
use rusqlite::Connection;

use crate::{
    batch::{EmbeddedBatch, offset_of, record_id},
    file::{beside, holder},
    groups::{self, Tending},
    shared::{Shared, advance, lock},
};

/// How often other processes' commits are looked for while a reader waits.
const TICK: Duration = Duration::from_millis(75);
/// How often anything is looked at while nobody waits.
const IDLE: Duration = Duration::from_secs(1);
/// After how long a lock's holder is named: within 5 s, by a look per second.
const LOCK_WAIT: Duration = Duration::from_secs(4);
/// The most bytes that one read returns, save that one record is always returned.
const READ_BYTES: usize = 4 << 20;

/// Something for the reader's thread.
pub(crate) enum Job {
    Run(Box<dyn FnOnce(&Connection) + Send>),
    Stop,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run(_) => "Run",
            Self::Stop => "Stop",
        })
    }
}

/// Runs until it is stopped or every handle is gone.
pub(crate) fn run(shared: &Shared, connection: &Connection, jobs: &mpsc::Receiver<Job>) {
    let mut watch = Watch { version: 0, looked: Instant::now(), reported: None, tending: Tending::default() };
    loop {
        let pause = if is_watched(shared) { TICK } else { IDLE };
        match jobs.recv_timeout(pause) {
            Ok(Job::Run(job)) => job(connection),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Job::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if watch.looked.elapsed() >= pause {
            watch.look(shared, connection);
        }
    }
}

/// Whether anybody here waits for what other processes do.
fn is_watched(shared: &Shared) -> bool {
    shared.waiting.load(Ordering::Relaxed) > 0 || !lock(&shared.groups).is_empty()
}

struct Watch {
    version: i64,
    looked: Instant,
    /// The wait that was reported, so that each is reported once.
    reported: Option<Instant>,
    tending: Tending,
}

impl Watch {
    fn look(&mut self, shared: &Shared, connection: &Connection) {
        self.looked = Instant::now();
        self.look_for_lock(shared);
        if !is_watched(shared) {
            return;
        }
        let looked = self
            .look_for_commits(shared, connection)
            .map_err(|error| shared.error("cannot look for commits of other processes", error));
        if let Err(error) = looked.and_then(|()| self.tending.tend(shared, connection)) {
            tracing::error!(%error, "embedded log");
        }
    }

    fn look_for_commits(&mut self, shared: &Shared, connection: &Connection) -> rusqlite::Result<()> {
        let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version == self.version {
            return Ok(());
        }
        let mut statement = connection.prepare_cached("SELECT id, next_offset FROM partition")?;
        let ends: HashMap<i64, Offset> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for topic in shared.topics() {
            for partition in &topic.partitions {
                if let Some(next) = ends.get(&partition.id) {
                    advance(&partition.end, *next);
                }
            }
        }
        groups::catch_up(shared, connection)?;
        self.version = version;
        Ok(())
    }

    fn look_for_lock(&mut self, shared: &Shared) {
        let Some(since) = *lock(&shared.lock_wait) else { return };
        if since.elapsed() >= LOCK_WAIT && self.reported != Some(since) {
            self.reported = Some(since);
            let path = &shared.place.path;
            tracing::warn!(
                log = %path.display(),
                holder = holder(&beside(path, ".writer")),
                "another process has held the log's write lock for {} s; nothing is stored until it lets go",
                since.elapsed().as_secs()
            );
        }
    }
}

/// What one read found.
pub(crate) enum Found {
    Records(EmbeddedBatch),
    /// Nothing from there to the end, which is here.
    Nothing(Offset),
}

/// A partition to read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) partition: PartitionId,
    pub(crate) id: i64,
    /// Only compaction leaves holes; elsewhere a hole that is not among `lost` is damage.
    pub(crate) compacted: bool,
    pub(crate) lost: Arc<[Range<Offset>]>,
}

impl Source {
    /// Whether there may be no record from `from` up to `to`.
    fn may_lack(&self, from: Offset, to: Offset) -> bool {
        let reach = |at, range: &Range<Offset>| if range.contains(&at) { range.end } else { at };
        self.compacted || from == to || self.lost.iter().fold(from, reach) >= to
    }
}

/// Reads records of a partition from `from` on.
pub(crate) fn read(
    shared: &Shared,
    connection: &Connection,
    source: &Source,
    from: Offset,
    max: usize,
) -> Result<Found, LogError> {
    let (partition, id) = (&source.partition, source.id);
    let unreadable = |first: Offset, end: Offset, what: &str| {
        LogError::new(
            LogErrorKind::Unreadable { first, end },
            format!("{}: {partition} at offset {first}: {what}", shared.place.path.display()),
        )
    };
    let failed = |error| shared.error(&format!("cannot read {partition} from offset {from}"), error);
    // One snapshot: the range and the records must agree.
    let _snapshot = Snapshot::begin(connection).map_err(failed)?;
    let (first, end) = range(connection, id).map_err(failed)?;
    if from < first || from > end {
        return Err(out_of_range(partition, from, first, end));
    }
    let mut batch = EmbeddedBatch::new(partition.clone(), &shared.buffers);
    // Without `LIMIT ?`: binding a limit makes SQLite plan the statement again.
    let mut statement = connection
        .prepare_cached(
            "SELECT id, timestamp, key, headers, value, crc FROM record WHERE id >= ? AND id < ? ORDER BY id",
        )
        .map_err(failed)?;
    let mut rows = statement.query([record_id(id, from), record_id(id, end)]).map_err(failed)?;
    let mut next = from;
    // What was read before a damage is given out first; the next read starts at the damage.
    let damage = loop {
        if batch.bytes() >= READ_BYTES || batch.records() >= max.max(1) {
            break None;
        }
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break None,
            Err(error) => break Some(failed(error)),
        };
        match push(&mut batch, row, |offset| source.may_lack(next, offset)) {
            Ok(Pushed::Record(offset)) => next = offset + 1,
            Ok(Pushed::Hole(offset)) => {
                break Some(unreadable(next, offset, &format!("no record up to offset {offset}")));
            }
            Ok(Pushed::Damaged(offset)) => {
                let what = "the stored bytes do not match their checksum";
                break Some(unreadable(offset, offset + 1, what));
            }
            Err(error) => {
                let what = format!("a value of another type: {error}");
                break Some(unreadable(next, next + 1, &what));
            }
        }
    };
    if batch.last().is_some() {
        return Ok(Found::Records(batch));
    }
    match damage {
        Some(error) => Err(error),
        None if source.may_lack(next, end) => Ok(Found::Nothing(end)),
        None => Err(unreadable(next, end, &format!("no record up to the end at {end}"))),
    }
}

/// A read transaction, by statements that are prepared once.
struct Snapshot<'a>(&'a Connection);

impl<'a> Snapshot<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(connection))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let ended = self.0.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if let Err(error) = ended {
            // The next read cannot begin then, and says so.
            tracing::error!(%error, "embedded log: a read transaction did not end");
        }
    }
}

enum Pushed {
    Record(Offset),
    /// There should be a record before this one.
    Hole(Offset),
    Damaged(Offset),
}

/// Takes a row in, unless it is damaged or does not follow.
fn push(
    batch: &mut EmbeddedBatch,
    row: &rusqlite::Row<'_>,
    follows: impl FnOnce(Offset) -> bool,
) -> rusqlite::Result<Pushed> {
    let id: i64 = row.get(0)?;
    let offset = offset_of(id);
    if !follows(offset) {
        return Ok(Pushed::Hole(offset));
    }
    let timestamp: i64 = row.get(1)?;
    let key = row.get_ref(2)?.as_blob_or_null()?;
    let headers = row.get_ref(3)?.as_blob()?;
    let value = row.get_ref(4)?.as_blob_or_null()?;
    let crc: u32 = row.get(5)?;
    if !batch.push(id, timestamp, key, headers, value, crc) {
        return Ok(Pushed::Damaged(offset));
    }
    Ok(Pushed::Record(offset))
}

/// The first offset and the one after the last.
pub(crate) fn range(connection: &Connection, id: i64) -> rusqlite::Result<(Offset, Offset)> {
    connection
        .prepare_cached("SELECT start_offset, next_offset FROM partition WHERE id = ?")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(crate) fn out_of_range(partition: &PartitionId, from: Offset, first: Offset, end: Offset) -> LogError {
    let why = if from < first { "retention passed it" } else { "it is after the end: the log went back" };
    LogError::new(
        LogErrorKind::OffsetOutOfRange { first, end },
        format!("{partition} holds offsets {first} to {end}, not {from}: {why}"),
    )
}

/// What a search by time found.
pub(crate) enum Search {
    Found(Offset),
    /// Nothing below this offset.
    GoOn(Offset),
    End,
}

/// Looks through up to `rows` records from `from` on for one that is not older than `micros`.
pub(crate) fn search_time(
    connection: &Connection,
    id: i64,
    from: Offset,
    end: Offset,
    micros: i64,
    rows: usize,
) -> rusqlite::Result<Search> {
    let mut statement =
        connection.prepare_cached("SELECT id, timestamp FROM record WHERE id >= ? AND id < ? ORDER BY id")?;
    let mut found = statement.query([record_id(id, from), record_id(id, end)])?;
    let (mut result, mut looked) = (Search::End, 0);
    while looked < rows
        && let Some(row) = found.next()?
    {
        looked += 1;
        let offset = offset_of(row.get(0)?);
        if row.get::<_, i64>(1)? >= micros {
            return Ok(Search::Found(offset));
        }
        result = Search::GoOn(offset + 1);
    }
    Ok(result)
}

/// The reader's thread, and the way to it.
#[derive(Debug)]
pub(crate) struct ReaderThread {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) thread: std::thread::JoinHandle<()>,
}

/// Starts the reader's thread.
pub(crate) fn start(shared: &Arc<Shared>, connection: Connection) -> std::io::Result<ReaderThread> {
    let (jobs, queue) = mpsc::channel();
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("aqueduct-reader".to_owned())
        .spawn(move || run(&shared, &connection, &queue))?;
    Ok(ReaderThread { jobs, thread })
}
