//! P12: what the HTTP side answers, and to whom.

use aqueduct_app::{App, Problem, serve};
use aqueduct_runtime::OnFailure;
use axum::{Router, routing};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Gate, Running, get, memory, ping, pings, until};

async fn router() -> Router {
    let routes = Router::new()
        .route("/things", routing::post(|| async {}))
        .route("/none", routing::get(|| async { Problem::not_found("there is no such thing") }));
    App::builder("pinger").log(&memory(1).await).routes(routes).build().unwrap().router()
}

/// RFC 9457. Red when `with_problems` is not around the routes.
#[tokio::test]
async fn every_error_is_a_problem() {
    for nested in ["", "/pinger"] {
        let mut router = router().await;
        if !nested.is_empty() {
            router = Router::new().nest(nested, router);
        }
        for (path, status, title, detail) in [
            ("/nowhere?x=1", 404, "Not Found", format!("there is nothing at {nested}/nowhere")),
            ("/none", 404, "Not Found", "there is no such thing".to_owned()),
            ("/things", 405, "Method Not Allowed", "GET is not possible here".to_owned()),
        ] {
            let path = format!("{nested}{path}");
            let (found, kind, body) = get(&router, &path).await;
            assert_eq!((found, kind.as_str()), (status, "application/problem+json"), "{path}");
            let problem = json!({
                "type": "about:blank", "title": title, "status": status, "detail": detail, "instance": path
            });
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), problem);
        }
    }
}

/// The status of a `GET /health/live` with this `Host`.
async fn with_host(listener: &TcpStream, host: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(listener.peer_addr().unwrap()).await.unwrap();
    let host = host.map_or_else(String::new, |host| format!("Host: {host}\r\n"));
    let request = format!("GET /health/live HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A page of another site that resolves its own name to 127.0.0.1 gets nothing. Red when `serve` has no
/// `check_host`; the names without a port are red when the host is cut at its last colon.
#[tokio::test]
async fn on_loopback_only_loopback_names_are_answered() {
    for address in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address).await else {
            println!("not tested: this machine has no {address}");
            continue;
        };
        let here = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router().await, stop.clone().cancelled_owned()));
        let probe = TcpStream::connect(here).await.unwrap();
        for name in ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "[::1]"] {
            assert_eq!(with_host(&probe, Some(name)).await, 200, "{name} at {address}");
            let with_port = format!("{name}:{}", here.port());
            assert_eq!(with_host(&probe, Some(&with_port)).await, 200, "{with_port}");
        }
        let foreign = ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"];
        for name in foreign.into_iter().chain(["10.0.0.1", "[2001:db8::1]:80", "localhost:x", "", "::1:80:"])
        {
            assert_eq!(with_host(&probe, Some(name)).await, 403, "{name} at {address}");
        }
        // HTTP/1.1 asks for a Host; without one nothing says that the request means us.
        assert!((400..=403).contains(&with_host(&probe, None).await));
        drop(probe);
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}

/// A sample of a text in the OpenMetrics format.
fn sample(text: &str, name: &str) -> Option<f64> {
    let (mut typed, mut found) = (Vec::new(), None);
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let family = series.split('{').next().unwrap();
            assert!(typed.contains(&family.strip_suffix("_total").unwrap_or(family)), "{line} has no type");
            let labels = series.strip_prefix(family).unwrap();
            assert_eq!(labels, "{app=\"pinger\",subscription=\"pings\"}");
            let value: f64 = value.parse().unwrap();
            found = found.or((family == name).then_some(value));
        }
    }
    found
}

/// Red when a counter is not filled in, or when the lag of a topic that is not there yet is an error.
#[tokio::test(start_paused = true)]
async fn metrics_show_what_ended_what_waits_and_what_was_set_aside() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let subscription = pings().then(OnFailure::DeadLetter);
    let app = App::builder("pinger").log(&bus).state(gate.clone()).subscribe(subscription).build().unwrap();
    // It may be scraped before it runs.
    let (status, kind, text) = get(&app.router(), "/metrics").await;
    assert_eq!((status, kind.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(sample(&text, "aqueduct_lag_records"), Some(0.0));
    let running = Running::start(app).ready().await;
    // One handled, one set aside, then two of a key, the first of which waits.
    for event in [ping("a", 1), ping("b", 0), ping("c", 1), ping("c", 2)] {
        bus.publish(&event).await.unwrap();
    }
    until(async || gate.started() == 2).await;
    gate.open(1);
    running.ended(2).await;
    let (_, _, text) = get(&running.router, "/metrics").await;
    for (name, value) in [
        ("aqueduct_deliveries_ended_total", 2.0),
        ("aqueduct_dead_letters_total", 1.0),
        ("aqueduct_attempts_retried_total", 0.0),
        ("aqueduct_lag_records", 2.0),
        ("aqueduct_deliveries_in_flight", 2.0),
        ("aqueduct_partitions_stopped", 0.0),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name}\n{text}");
    }
    gate.open(2);
    running.stop().await.unwrap().unwrap();
}
