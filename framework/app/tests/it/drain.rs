//! P9: an app ends in order, and within its deadline.

use std::time::Duration;

use aqueduct_app::{App, AppBuilder, Config};
use aqueduct_runtime::{Bus, OnFailure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Gate, Logs, Running, elapsed, memory, ping, pings, until};

fn app(bus: &Bus, gate: &Gate) -> AppBuilder<Gate> {
    App::builder("pinger").log(bus).state(gate.clone()).subscribe(pings())
}

/// The first line and the body of an answer; none where nobody listens.
async fn ask(address: std::net::SocketAddr, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

/// Red when `stop_http` is cancelled before the subscriptions have drained.
#[tokio::test]
async fn http_answers_until_the_last_handler_has_ended() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let running = Running::start(app(&bus, &gate).http(listener).build().unwrap()).ready().await;
    assert_eq!(ask(address, "/health/ready").await.unwrap().0, "HTTP/1.1 200 OK");
    bus.publish(&ping("a", 1)).await.unwrap();
    until(async || gate.started() == 1).await;
    let status = running.status.clone();
    let ended = running.stop();
    until(async || !status.readiness().ready).await;
    let (line, body) = ask(address, "/health/ready").await.unwrap();
    assert_eq!(line, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, r#"{"ready":false,"reasons":["draining"]}"#);
    assert!(!ended.is_finished());
    gate.open(1);
    ended.await.unwrap().unwrap();
    assert_eq!(status.subscriptions()[0].ended, 1);
    assert_eq!(ask(address, "/health/ready").await, None);
}

/// Red when `Partition::drain` waits for its handlers alone.
#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_end_holds_the_app_up_until_the_deadline() {
    let (logs, _guard) = Logs::capture();
    let (bus, gate) = (memory(1).await, Gate::shut());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[drain]\ndeadline_ms = 2500").unwrap();
    let config = Config::load(Some(file.path()), []).unwrap();
    let running = Running::start(app(&bus, &gate).config(config).build().unwrap()).ready().await;
    bus.publish(&ping("a", 1)).await.unwrap();
    until(async || gate.started() == 1).await;
    let (ended, took) = elapsed(running.stop()).await;
    ended.unwrap().unwrap();
    // The last settle has its share of the deadline.
    assert!((Duration::from_millis(2_000)..Duration::from_millis(2_700)).contains(&took), "{took:?}");
    let line = logs.line("deliveries did not end within the deadline; they will come again").unwrap();
    assert_eq!(line["fields"]["drained.unfinished"], 1);
    assert_eq!(line["level"], "WARN");

    // It does come again.
    let again = Running::start(app(&bus, &gate).build().unwrap());
    gate.open(1);
    again.ended(1).await;
    again.stop().await.unwrap().unwrap();
}

/// Who drops the run wants it to be over. Red when the server's task is not aborted with it.
#[tokio::test]
async fn a_run_that_is_dropped_leaves_nothing_behind() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app(&bus, &gate).http(listener).build().unwrap();
    let status = app.status();
    tokio::select! {
        ended = app.run(std::future::pending::<()>()) => panic!("{ended:?}"),
        () = until(async || status.readiness().ready) => {}
    }
    until(async || ask(address, "/health/live").await.is_none()).await;
}

/// A partition that has stopped holds the app up no longer than one that runs: another key's handler may hang.
#[tokio::test(start_paused = true)]
async fn a_stopped_partition_with_a_handler_that_hangs_drains_within_the_deadline() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let app = App::builder("pinger").log(&bus).state(gate.clone()).subscribe(pings().then(OnFailure::Stop));
    let running = Running::start(app.build().unwrap()).ready().await;
    bus.publish(&ping("hangs", 1)).await.unwrap();
    until(async || gate.started() == 1).await;
    bus.publish(&ping("stops", 0)).await.unwrap();
    let metrics = running.router.clone();
    until(async || !running.status.readiness().ready).await;
    drop(metrics);
    let (ended, took) = elapsed(running.stop()).await;
    ended.unwrap().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// What waits for its turn when the drain begins is not begun: it comes again.
#[tokio::test(start_paused = true)]
async fn no_handler_starts_after_the_drain_has_begun() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let app = App::builder("pinger").log(&bus).state(gate.clone()).subscribe(pings().concurrency(1));
    let running = Running::start(app.build().unwrap()).ready().await;
    bus.publish_all(&[ping("a", 1), ping("b", 1), ping("c", 1)]).await.unwrap();
    until(async || gate.started() == 1).await;
    let status = running.status.clone();
    let ended = running.stop();
    until(async || !status.readiness().ready).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open(3);
    ended.await.unwrap().unwrap();
    assert_eq!((gate.started(), status.subscriptions()[0].ended), (1, 1));
}
