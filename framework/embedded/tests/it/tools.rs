//! What the tests share.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use aqueduct_core::{
    Environment, Headers, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    environment::{Clock, Random, SystemClock},
    log::{CommitLog, Offset, Outcomes, PartitionId, Position, Producer, Start, TopicSpec},
};
use aqueduct_embedded::{EmbeddedLog, EmbeddedOptions};
use bytes::Bytes;
use rand::RngCore;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

/// Long enough for a busy machine; never spent by a log that keeps its promises.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

struct Machine;

impl Random for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// A clock that stands where it is put.
#[derive(Clone, Default)]
pub(crate) struct Standing(Arc<AtomicI64>);

impl Standing {
    pub(crate) fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::SeqCst);
    }
}

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) fn environment() -> Environment {
    Environment::new(SystemClock, Machine)
}

pub(crate) fn at_time(clock: &Standing) -> Environment {
    Environment::new(clock.clone(), Machine)
}

pub(crate) fn path(directory: &Path) -> PathBuf {
    directory.join("log.db")
}

pub(crate) fn options(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions::new(path(directory), environment()).partitions(1)
}

pub(crate) async fn try_open(directory: &Path) -> Result<Arc<EmbeddedLog>, LogError> {
    EmbeddedLog::open(options(directory)).await
}

pub(crate) async fn open(directory: &Path) -> Arc<EmbeddedLog> {
    try_open(directory).await.unwrap()
}

pub(crate) fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

/// Partition 0 of a topic.
pub(crate) fn zero(topic: &str) -> PartitionId {
    PartitionId { topic: name(topic), partition: 0 }
}

pub(crate) async fn make_topic(log: &EmbeddedLog, topic: &str) {
    log.ensure_topic(TopicSpec::new(name(topic))).await.unwrap();
}

/// A record for topic `t`.
pub(crate) fn keyed(key: &str, value: &str) -> NewRecord {
    NewRecord {
        topic: name("t"),
        partition: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::default(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        timestamp: Timestamp::from_micros(1_000_000),
    }
}

pub(crate) fn enqueue(producer: &Arc<dyn Producer>, batch: Vec<NewRecord>) -> oneshot::Receiver<Outcomes> {
    let (sender, receiver) = oneshot::channel();
    producer.enqueue(batch, Box::new(move |outcomes| drop(sender.send(outcomes))));
    receiver
}

pub(crate) async fn append(log: &EmbeddedLog, batch: Vec<NewRecord>) -> Vec<Position> {
    let producer = log.producer().await.unwrap();
    enqueue(&producer, batch).await.unwrap().into_iter().collect::<Result<_, _>>().unwrap()
}

/// Appends `values` to topic `t`, one key; gives their offsets.
pub(crate) async fn append_values(log: &EmbeddedLog, values: std::ops::Range<i64>) -> Vec<Offset> {
    let batch = values.map(|value| keyed("k", &format!("value {value}"))).collect();
    append(log, batch).await.into_iter().map(|position| position.offset).collect()
}

pub(crate) fn text(record: &Record) -> String {
    String::from_utf8(record.value().unwrap().to_vec()).unwrap()
}

/// Reads partition 0 of topic `t` from `start` to its end.
pub(crate) async fn read_to_end(log: &EmbeddedLog, start: Start) -> Result<Vec<Record>, LogError> {
    let end = log.end_offsets(&name("t")).await?[0];
    let mut reader = log.cursor(&zero("t"), start).await?;
    let mut records = Vec::new();
    while reader.position() < end {
        let batch = tokio::time::timeout(PATIENCE, reader.read(1_000)).await.expect("a read")?;
        records.extend(Record::all(&batch));
    }
    Ok(records)
}

pub(crate) fn offsets(records: &[Record]) -> Vec<Offset> {
    records.iter().map(Record::offset).collect()
}

/// The file, by SQLite itself, as another program sees it.
pub(crate) fn sqlite(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

pub(crate) fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[track_caller]
pub(crate) fn assert_kind<T: std::fmt::Debug>(result: Result<T, LogError>, kind: LogErrorKind) -> String {
    match result {
        Err(error) if error.kind() == kind => error.to_string(),
        other => panic!("{kind:?} was expected, not {other:?}"),
    }
}

/// Asks again until the answer is yes.
pub(crate) async fn until(what: &str, mut asked: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !asked().await {
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        tokio::task::yield_now().await;
    }
}

/// Everything that is logged in this test process, by any thread.
pub(crate) fn logged() -> &'static Mutex<String> {
    static LOGGED: OnceLock<Arc<Mutex<String>>> = OnceLock::new();
    LOGGED.get_or_init(|| {
        let logged = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&logged);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        logged
    })
}

struct Writer(Arc<Mutex<String>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
