use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_app::{App, AppError, Status};
use aqueduct_core::{
    Environment, Handled, Record, State, Terminal, TopicName,
    environment::{Random, SystemClock},
    log::{CommitLog, PartitionId, Start},
};
use aqueduct_derive::Event;
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, Retry, Subscription};
use axum::{Router, body::Body, http::Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use tracing::subscriber::DefaultGuard;

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "test.Pinged", topic = "pings", key = key, crate = aqueduct_core)]
pub(crate) struct Pinged {
    pub(crate) key: String,
    pub(crate) number: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "test.Ponged", topic = "pongs", key = key, crate = aqueduct_core)]
pub(crate) struct Ponged {
    pub(crate) key: String,
    pub(crate) number: u32,
}

pub(crate) fn ping(key: &str, number: u32) -> Pinged {
    Pinged { key: key.to_owned(), number }
}

/// A counter is random enough here, and a run repeats.
#[derive(Default)]
struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        for (byte, value) in bytes.iter_mut().zip(number.to_le_bytes().into_iter().cycle()) {
            *byte = value;
        }
    }
}

pub(crate) async fn bus(log: impl CommitLog) -> Bus {
    Bus::open(Arc::new(log), Environment::new(SystemClock, Counting::default())).await.unwrap()
}

pub(crate) async fn memory(partitions: i32) -> Bus {
    bus(MemoryLog::new(partitions)).await
}

/// Lets handlers through one by one, and knows how many have started and how many run.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Semaphore,
    started: AtomicU64,
    running: AtomicU64,
    most: AtomicU64,
}

impl Gate {
    pub(crate) fn shut() -> Self {
        let counter = AtomicU64::default;
        Self(Arc::new(Inner {
            permits: Semaphore::new(0),
            started: counter(),
            running: counter(),
            most: counter(),
        }))
    }

    pub(crate) fn open(&self, passes: usize) {
        self.0.permits.add_permits(passes);
    }

    pub(crate) async fn pass(&self) {
        self.0.started.fetch_add(1, Ordering::SeqCst);
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        self.0.permits.acquire().await.unwrap().forget();
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn started(&self) -> u64 {
        self.0.started.load(Ordering::SeqCst)
    }

    /// The most that ran at once.
    pub(crate) fn most(&self) -> u64 {
        self.0.most.load(Ordering::SeqCst)
    }
}

/// Number 0 is what no attempt can handle.
pub(crate) async fn gated(event: Pinged, State(gate): State<Gate>) -> Handled {
    if event.number == 0 {
        return Err(Terminal::new("number 0").into());
    }
    gate.pass().await;
    Ok(())
}

pub(crate) fn pings() -> Subscription<Gate> {
    Subscription::builder("pings").on(gated).retry(Retry::exponential().attempts(1))
}

/// An app under way; dropped, it is told to end.
pub(crate) struct Running {
    pub(crate) status: Status,
    pub(crate) router: Router,
    task: JoinHandle<Result<(), AppError>>,
    stop: DropGuard,
}

impl Running {
    pub(crate) fn start(app: App) -> Self {
        let (status, router, stop) = (app.status(), app.router(), CancellationToken::new());
        let task = tokio::spawn(app.run(stop.clone().cancelled_owned()));
        Self { status, router, task, stop: stop.drop_guard() }
    }

    pub(crate) async fn ready(self) -> Self {
        until(async || self.status.readiness().ready).await;
        self
    }

    pub(crate) async fn ended(&self, count: u64) {
        until(async || self.status.subscriptions().iter().map(|each| each.ended).sum::<u64>() >= count).await;
    }

    /// Tells it to end, without waiting.
    pub(crate) fn stop(self) -> JoinHandle<Result<(), AppError>> {
        drop(self.stop);
        self.task
    }
}

/// Waits for a condition, for ten seconds at most; where the clock is paused it does not move meanwhile.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(10), "it did not come to pass");
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn elapsed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let result = future.await;
    (result, began.elapsed())
}

/// Status, content type and body of a `GET`.
pub(crate) async fn get(router: &Router, path: &str) -> (u16, String, String) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

/// All records of a topic, by partition.
pub(crate) async fn records(log: &Arc<dyn CommitLog>, topic: &str) -> Vec<Record> {
    let topic = TopicName::new(topic).unwrap();
    let mut records = Vec::new();
    for (partition, end) in (0..).zip(log.end_offsets(&topic).await.unwrap()) {
        let id = PartitionId { topic: topic.clone(), partition };
        let mut reader = log.cursor(&id, Start::Earliest).await.unwrap();
        while reader.position() < end {
            records.extend(Record::all(&reader.read(1_000).await.unwrap()));
        }
    }
    records
}

/// What is logged on this thread, as JSON.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub(crate) fn capture() -> (Self, DefaultGuard) {
        let logs = Self::default();
        let writer = logs.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        (logs, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The line with this message.
    pub(crate) fn line(&self, message: &str) -> Option<Value> {
        self.lines().into_iter().find(|line| line["fields"]["message"] == message)
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
