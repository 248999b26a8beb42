//! What the tests of the sample shop share: a town with a log in memory, running services, baskets.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "only tests depend on it; a panic is their answer"
)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aqueduct::{
    App, AppBuilder, AppError, Bus, Event, Status, Timestamp, TopicName,
    core::{
        cloudevents::Incoming,
        log::{PartitionId, Start},
        record::Record,
    },
};
use axum::{Router, body::Body, http::Request};
use serde_json::Value;
use shop_events::{
    BasketId, HouseholdId, Sku, StoreId,
    till::{BasketCheckedOut, Line},
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tower::ServiceExt;

/// No condition here takes longer, unless it never comes true.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a test happens: a log in memory, and a folder for databases.
#[derive(Debug)]
pub struct Town {
    /// The log.
    pub bus: Bus,
    folder: TempDir,
}

impl Town {
    /// A town where nothing happened yet.
    pub async fn new() -> Self {
        Self { bus: aqueduct::connect("memory:").await.unwrap(), folder: TempDir::new().unwrap() }
    }

    /// A file in its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    /// All events of a type that the log holds.
    pub async fn events<E: Event>(&self) -> Vec<E> {
        let topic = TopicName::new(E::INFO.topic).unwrap();
        let log = self.bus.log();
        let mut events = Vec::new();
        if log.describe_topic(&topic).await.unwrap().is_none() {
            return events;
        }
        for (partition, end) in (0..).zip(log.end_offsets(&topic).await.unwrap()) {
            let id = PartitionId { topic: topic.clone(), partition };
            let mut cursor = log.cursor(&id, Start::Earliest).await.unwrap();
            let mut next = 0;
            while next < end {
                let batch = cursor.read(1_000).await.unwrap();
                for record in Record::all(&batch) {
                    let incoming = Incoming::read(&record, None).unwrap();
                    let (name, version) = incoming.event_type();
                    if name == E::INFO.event.name {
                        events.push(<E as Event>::decode(version, record.value().unwrap()).unwrap());
                    }
                    next = record.offset() + 1;
                }
            }
        }
        events
    }
}

/// A service that runs in this process.
#[derive(Debug)]
pub struct Running {
    status: Status,
    router: Router,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), AppError>>,
}

impl Running {
    /// Starts it.
    #[must_use]
    pub fn start(app: AppBuilder<()>) -> Self {
        let app: App = app.build().unwrap();
        let (stop, stopped) = oneshot::channel();
        Self { status: app.status(), router: app.router(), stop, ended: tokio::spawn(app.run(stopped)) }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Records that it set aside.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.status.subscriptions().iter().map(|subscription| subscription.dead_letters).sum()
    }

    /// Asks its HTTP API: status, content type and body.
    pub async fn ask(&self, path: &str) -> (u16, String, Value) {
        let response =
            self.router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, content_type, serde_json::from_slice(&body).unwrap())
    }

    /// The body of an answer that must be there.
    pub async fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.ask(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Drains and ends it.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
    }
}

/// Waits until these services have nothing left to do.
pub async fn settled(services: &[&Running]) {
    let apps: Vec<Status> = services.iter().map(|service| service.status.clone()).collect();
    let waiting = async {
        while !aqueduct::caught_up(&apps).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
        let mut told = String::new();
        for app in &apps {
            let (lag, outbox) = (app.lag().await, app.outbox().await);
            told += &format!("\n{}: {:?}, {lag:?}, {outbox:?}", app.name(), app.readiness());
        }
        panic!("not settled after {DEADLINE:?}{told}");
    }
}

/// A basket of household 900 on 1 January 2017, `lines` as product and quantity.
#[must_use]
pub fn basket(number: u64, store: u32, lines: &[(u32, u32)]) -> BasketCheckedOut {
    let line = |&(sku, quantity): &(u32, u32)| Line { sku: Sku(sku), quantity, paid_cents: Some(100) };
    BasketCheckedOut {
        basket: BasketId(number),
        store: StoreId(store),
        household: HouseholdId(900),
        at: Timestamp::from_millis(1_483_271_606_000),
        lines: lines.iter().map(line).collect(),
    }
}

/// The body of a problem.
#[must_use]
pub fn problem(status: u16, title: &str, detail: &str, instance: &str) -> (u16, String, Value) {
    let body = serde_json::json!({
        "type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance,
    });
    (status, "application/problem+json".to_owned(), body)
}
