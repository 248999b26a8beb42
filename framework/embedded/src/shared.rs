//! What the threads and the handles of one instance share.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Offset, PartitionId, TopicInfo},
};
use tokio::sync::{oneshot, watch};

use crate::{
    batch::Buffers,
    command::Command,
    error::{closed, sqlite},
    file::Place,
    groups::Groups,
    options::EmbeddedOptions,
    reading::Job,
    schema::{StoredTopic, load_topic},
};

/// Offsets that were acknowledged and are gone: the database went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets.
    pub offsets: Range<Offset>,
}

/// A partition, and where its end is told.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) id: i64,
    pub(crate) end: watch::Sender<Offset>,
}

/// A topic that exists, by its committed rows.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) info: TopicInfo,
    pub(crate) partitions: Vec<Partition>,
}

impl Topic {
    pub(crate) fn new(stored: StoredTopic) -> Self {
        let partitions = stored
            .partitions
            .into_iter()
            .map(|(id, next)| Partition { id, end: watch::Sender::new(next) })
            .collect();
        Self { info: stored.info, partitions }
    }

    pub(crate) fn name(&self) -> &TopicName {
        &self.info.spec.name
    }

    pub(crate) fn count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    pub(crate) fn partition(&self, number: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number).ok()?)
    }
}

/// State without the channels, so that a thread can hold it and still end when every handle is gone.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) options: EmbeddedOptions,
    process: u32,
    topics: RwLock<HashMap<TopicName, Arc<Topic>>>,
    pub(crate) groups: Mutex<Groups>,
    /// Stamps appends; see `holds`.
    pub(crate) sequence: AtomicU64,
    /// Readers that wait at an end; while there are any, other processes' commits are looked for.
    pub(crate) waiting: AtomicUsize,
    closed: AtomicBool,
    /// Since when the writer waits for another process.
    pub(crate) lock_wait: Mutex<Option<Instant>>,
    lost: Mutex<Vec<(i64, LostRange)>>,
    pub(crate) buffers: Arc<Buffers>,
}

impl Shared {
    pub(crate) fn new(place: Place, options: EmbeddedOptions) -> Self {
        Self {
            place,
            options,
            process: std::process::id(),
            topics: RwLock::default(),
            groups: Mutex::default(),
            sequence: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            lock_wait: Mutex::new(None),
            lost: Mutex::default(),
            buffers: Arc::default(),
        }
    }

    /// A child of fork(2) has the memory and the file handles, but neither the threads nor the locks.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        if std::process::id() != self.process {
            return Err(LogError::new(
                LogErrorKind::Configuration,
                format!(
                    "{} was opened by process {}, and this is its fork {}: open the log again here",
                    self.place.path.display(),
                    self.process,
                    std::process::id()
                ),
            ));
        }
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// No call is taken from here on; readers that wait are told, because the ends that they watch are dropped.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.topics.write().unwrap_or_else(PoisonError::into_inner).clear();
        lock(&self.groups).clear();
    }

    pub(crate) fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Keeps a committed topic unless it is known: its ends are told in one place only.
    pub(crate) fn adopt(&self, topic: Arc<Topic>) -> Arc<Topic> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return topic;
        }
        Arc::clone(topics.entry(topic.name().clone()).or_insert(topic))
    }

    /// Reports lost ranges, and keeps them.
    pub(crate) fn add_lost(&self, lost: Vec<(i64, LostRange)>) {
        for (_, range) in &lost {
            tracing::error!(
                log = %self.place.path.display(),
                partition = %range.partition,
                first = range.offsets.start,
                end = range.offsets.end,
                "the log went back: these offsets were acknowledged and are gone"
            );
        }
        lock(&self.lost).extend(lost);
    }

    pub(crate) fn lost(&self) -> Vec<LostRange> {
        lock(&self.lost).iter().map(|(_, range)| range.clone()).collect()
    }

    pub(crate) fn lost_in(&self, partition: i64) -> Vec<Range<Offset>> {
        lock(&self.lost)
            .iter()
            .filter(|(id, _)| *id == partition)
            .map(|(_, range)| range.offsets.clone())
            .collect()
    }

    pub(crate) fn error(&self, tried: &str, error: rusqlite::Error) -> LogError {
        sqlite(&self.place.path, tried, error)
    }
}

/// Tells a partition's new end. It never falls here: an older view that comes late changes nothing.
pub(crate) fn advance(end: &watch::Sender<Offset>, next: Offset) {
    end.send_if_modified(|end| {
        let moved = next > *end;
        *end = next.max(*end);
        moved
    });
}

/// A panic elsewhere leaves these locks' data whole: every change under them is one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to an instance: its state and the channels of its two threads, which end when the last handle is gone.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: mpsc::Sender<Command>,
    pub(crate) reader: mpsc::Sender<Job>,
}

impl Handle {
    /// Runs `job` on the reader's thread.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        job: impl FnOnce(&rusqlite::Connection) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        self.shared.check()?;
        let (reply, answer) = oneshot::channel();
        let job = Job::Run(Box::new(move |connection| {
            // A caller that went away does not want the answer.
            drop(reply.send(job(connection)));
        }));
        self.reader.send(job).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Sends a command to the writer and waits for its answer.
    pub(crate) async fn command<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, LogError> {
        self.shared.check()?;
        let (reply, answer) = oneshot::channel();
        self.writer.send(command(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }

    /// The topic, read from the database unless known.
    pub(crate) async fn find_topic(&self, name: &TopicName) -> Result<Option<Arc<Topic>>, LogError> {
        self.shared.check()?;
        if let Some(topic) = self.shared.topic(name) {
            return Ok(Some(topic));
        }
        let shared = Arc::clone(&self.shared);
        let name = name.clone();
        self.query(move |connection| {
            let stored = load_topic(connection, &name)
                .map_err(|error| shared.error(&format!("cannot read topic {name}"), error))?;
            Ok(stored.map(|stored| shared.adopt(Arc::new(Topic::new(stored)))))
        })
        .await
    }

    /// The topic, which must exist.
    pub(crate) async fn require_topic(&self, name: &TopicName) -> Result<Arc<Topic>, LogError> {
        self.find_topic(name).await?.ok_or_else(|| {
            LogError::new(
                LogErrorKind::TopicMissing,
                format!("topic {name} does not exist in {}", self.shared.place.path.display()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_core::environment::{Random, SystemClock};

    use super::*;

    struct Zero;
    impl Random for Zero {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    /// R7. Red when `check` compares no process id. (A real fork needs `unsafe`, which this crate forbids.)
    #[test]
    fn a_fork_is_refused() {
        let environment = aqueduct_core::Environment::new(SystemClock, Zero);
        let place = Place { path: "/x/log.db".into(), identity: (1, 2) };
        let mut shared = Shared::new(place, EmbeddedOptions::new("/x/log.db", environment));
        assert!(shared.check().is_ok());
        shared.process += 1;
        let error = shared.check().unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Configuration);
        assert!(error.to_string().starts_with("/x/log.db was opened by process"), "{error}");
    }
}
