//! Handlers that outlast what a group's members may take between two polls, and a broker that is away.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aqueduct::{
    App, AppError, Bus, Handled, State, Status, Subscription, TopicName, core::log::TopicSpec, prelude::*,
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::cluster;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "slow.Step", topic = "steps", key = key)]
struct Step {
    key: String,
    number: u32,
}

/// What handlers have ended, in order, and when.
type Seen = Arc<Mutex<Vec<(Step, Instant)>>>;

/// A key that begins with `slow` takes nine seconds.
async fn handle(step: Step, State(seen): State<Seen>) -> Handled {
    if step.key.starts_with("slow") {
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    seen.lock().unwrap().push((step, Instant::now()));
    Ok(())
}

struct Running {
    bus: Bus,
    seen: Seen,
    status: Status,
    stop: oneshot::Sender<()>,
    app: JoinHandle<Result<(), AppError>>,
}

async fn start(parameters: &str) -> Running {
    let url = format!("{}?{}&partitions=2{parameters}", cluster::url(), cluster::prefix());
    let bus = aqueduct::connect(&url).await.unwrap();
    bus.log().ensure_topic(TopicSpec::new(TopicName::new("steps").unwrap())).await.unwrap();
    let seen = Seen::default();
    let app = App::builder("slow").log(&bus).state(Arc::clone(&seen));
    let app = app.subscribe(Subscription::builder("slow").on(handle)).build().unwrap();
    let status = app.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let app = tokio::spawn(app.run(stopped));
    Running { bus, seen, status, stop, app }
}

impl Running {
    /// Waits until so many have been handled.
    async fn handled(&self, count: usize, within: Duration) {
        let started = Instant::now();
        while self.seen.lock().unwrap().len() < count {
            let status = || format!("{:?}", self.status.subscriptions());
            assert!(
                started.elapsed() < within,
                "{} of {count}: {}",
                self.seen.lock().unwrap().len(),
                status()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        drop(self.stop);
        self.app.await.unwrap().unwrap();
        self.bus.log().close().await.unwrap();
    }
}

fn step(key: &str, number: u32) -> Step {
    Step { key: key.to_owned(), number }
}

/// Kafka puts a member out that does not poll for `max.poll.interval.ms`: a handler must not be what polls. Red when the
/// member's client is polled where handlers run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_slower_than_the_poll_interval_keeps_its_place_and_its_neighbours_run() {
    let running = start("&session.timeout.ms=6000&max.poll.interval.ms=6000").await;
    running.bus.publish(&step("slow", 1)).await.unwrap();
    let began = Instant::now();
    // In both partitions, while it runs.
    for number in 0..50 {
        running.bus.publish(&step(&format!("k{number}"), number)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.handled(50, Duration::from_secs(20)).await;
    assert!(running.seen.lock().unwrap().iter().all(|(step, _)| step.key != "slow"), "{:?}", began.elapsed());
    running.handled(51, Duration::from_secs(20)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Put out, its partition would have been given anew, and the event with it.
    assert_eq!(running.seen.lock().unwrap().len(), 51);
    assert!(running.status.readiness().ready, "{:?}", running.status.subscriptions());
    running.end().await;
}

/// `cargo xtask kafka ..` of the tests' own cluster.
fn tell(words: &[&str]) {
    let xtask = std::env::var_os("TEST_KAFKA_XTASK").map(PathBuf::from);
    let folder = std::env::var_os("TEST_KAFKA_CLUSTER");
    let (xtask, folder) = xtask.zip(folder).expect("run by `cargo xtask kafka test`, which says how");
    let status = Command::new(xtask).args(["kafka", "--cluster"]).arg(folder).args(words).status();
    assert!(status.unwrap().success(), "{words:?}");
}

/// An outage of a minute, in both protocols of groups: publishers wait in order, nothing is lost, it is told, and handlers
/// go on by themselves. Red when records have a time-out, or a member without partitions is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills the broker that other tests use: `cargo xtask kafka test` runs it alone"]
async fn a_broker_that_is_away_for_a_minute_costs_time_alone() {
    let services = [start("").await, start("&group.protocol=consumer").await];
    for running in &services {
        for number in 0..20 {
            running.bus.publish(&step("k", number)).await.unwrap();
        }
        running.handled(20, Duration::from_secs(20)).await;
    }
    // What is settled does not come again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::task::spawn_blocking(|| tell(&["kill", "1"])).await.unwrap();
    let mut waiting = Vec::new();
    for running in &services {
        // Each takes its place in the order now.
        let publishes: Vec<_> = (20..60).map(|number| running.bus.publish(&step("k", number))).collect();
        waiting.push(tokio::spawn(async move {
            let mut places = Vec::new();
            for publish in publishes {
                places.push(publish.await.unwrap().offset);
            }
            places
        }));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    assert!(services.iter().all(|running| !running.status.readiness().ready));
    tokio::task::spawn_blocking(|| tell(&["restart", "1"])).await.unwrap();
    let back = Instant::now();
    for (running, waiting) in services.iter().zip(waiting) {
        running.handled(60, Duration::from_secs(60)).await;
        let places = waiting.await.unwrap();
        assert!(places.is_sorted(), "{places:?}");
        let seen = running.seen.lock().unwrap().clone();
        let numbers: Vec<_> = seen.iter().map(|(step, _)| step.number).collect();
        assert_eq!(numbers, (0..60).collect::<Vec<_>>());
        let first = seen[20].1.saturating_duration_since(back);
        println!("first delivery {:.1} s after the broker's return", first.as_secs_f64());
    }
    for running in services {
        running.end().await;
    }
}
