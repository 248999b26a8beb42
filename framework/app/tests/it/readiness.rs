//! P12: an app says whether it can do its work, and if not, why.

use aqueduct_app::{App, AppBuilder};
use aqueduct_runtime::{Bus, OnFailure};
use serde_json::{Value, json};

use crate::support::{Gate, Running, get, memory, ping, pings, until};

fn app(bus: &Bus, gate: &Gate) -> AppBuilder<Gate> {
    App::builder("pinger").log(bus).state(gate.clone())
}

async fn ready(router: &axum::Router) -> (u16, Value) {
    let (status, _, body) = get(router, "/health/ready").await;
    (status, serde_json::from_str(&body).unwrap())
}

/// Red when `SubscriptionStatus::ready` does not look at `joined`.
#[tokio::test(start_paused = true)]
async fn it_is_ready_once_it_has_joined() {
    let (bus, gate) = (memory(2).await, Gate::shut());
    let app = app(&bus, &gate).subscribe(pings()).build().unwrap();
    let reasons = json!(["pings: has not joined its group yet"]);
    assert_eq!(ready(&app.router()).await, (503, json!({ "ready": false, "reasons": reasons })));
    assert_eq!(get(&app.router(), "/health/live").await.0, 200);
    let running = Running::start(app).ready().await;
    assert_eq!(ready(&running.router).await, (200, json!({ "ready": true, "reasons": [] })));
    let (status, router) = (running.status.clone(), running.router.clone());
    running.stop().await.unwrap().unwrap();
    // The handle outlives the run, and does not call it ready again.
    assert_eq!(status.readiness().reasons, ["draining"]);
    assert_eq!(ready(&router).await.0, 503);
}

/// Red when `ready` does not look at `stopped`.
#[tokio::test(start_paused = true)]
async fn a_stopped_partition_makes_it_unready_and_is_named() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let running = Running::start(app(&bus, &gate).subscribe(pings().then(OnFailure::Stop)).build().unwrap())
        .ready()
        .await;
    bus.publish(&ping("a", 0)).await.unwrap();
    until(async || !running.status.readiness().ready).await;
    let reason = "pings: pings/0 stopped: pings/0@0 failed after 1 attempts: number 0";
    assert_eq!(ready(&running.router).await, (503, json!({ "ready": false, "reasons": [reason] })));
    let (_, _, metrics) = get(&running.router, "/metrics").await;
    let sample = "aqueduct_partitions_stopped{app=\"pinger\",subscription=\"pings\"} 1\n";
    assert!(metrics.contains(sample), "{metrics}");
    running.stop().await.unwrap().unwrap();
}

/// Red when `App::run` does not call `status.drain()`.
#[tokio::test(start_paused = true)]
async fn it_is_unready_while_it_drains() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let running = Running::start(app(&bus, &gate).subscribe(pings()).build().unwrap()).ready().await;
    bus.publish(&ping("a", 1)).await.unwrap();
    until(async || gate.started() == 1).await;
    let (status, router) = (running.status.clone(), running.router.clone());
    let ended = running.stop();
    until(async || !status.readiness().ready).await;
    assert_eq!(ready(&router).await, (503, json!({ "ready": false, "reasons": ["draining"] })));
    assert!(!ended.is_finished());
    gate.open(1);
    ended.await.unwrap().unwrap();
}
