//! P12: settings take effect, or are refused.

use aqueduct_app::{App, Config};

use crate::support::{Gate, Running, memory, ping, pings, until};

fn config(toml: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    Config::load(Some(file.path()), []).unwrap()
}

async fn refused(toml: &str) -> String {
    let bus = memory(1).await;
    let app = App::builder("pinger").log(&bus).state(Gate::shut()).subscribe(pings()).config(config(toml));
    app.build().unwrap_err().to_string()
}

/// Red when `AppBuilder::build` drops `overrides.concurrency`: then all twenty run at once.
#[tokio::test(start_paused = true)]
async fn a_concurrency_of_one_runs_one_handler_at_a_time() {
    let (bus, gate) = (memory(4).await, Gate::shut());
    let app = App::builder("pinger").log(&bus).state(gate.clone()).subscribe(pings());
    let app = app.config(config("[subscriptions.pings]\nconcurrency = 1")).build().unwrap();
    let running = Running::start(app).ready().await;
    let pings: Vec<_> = (1..=20).map(|number| ping(&number.to_string(), number)).collect();
    bus.publish_all(&pings).await.unwrap();
    for ended in 1..=20 {
        until(async || gate.started() == ended).await;
        gate.open(1);
        running.ended(ended).await;
    }
    assert_eq!(gate.most(), 1);
    running.stop().await.unwrap().unwrap();
}

/// Red when `AppBuilder::build` drops `overrides.window`.
#[tokio::test(start_paused = true)]
async fn a_window_of_two_lets_two_deliveries_be_open() {
    let (bus, gate) = (memory(1).await, Gate::shut());
    let app = App::builder("pinger").log(&bus).state(gate.clone()).subscribe(pings());
    let app = app.config(config("[subscriptions.pings]\nwindow = 2")).build().unwrap();
    let running = Running::start(app).ready().await;
    let pings: Vec<_> = (1..=8).map(|number| ping(&number.to_string(), number)).collect();
    bus.publish_all(&pings).await.unwrap();
    for ended in 1..=8 {
        until(async || gate.started() == (ended + 1).min(8)).await;
        gate.open(1);
        running.ended(ended).await;
    }
    assert_eq!(gate.most(), 2);
    running.stop().await.unwrap().unwrap();
}

/// Red when `AppBuilder::build` does not look for unknown names.
#[tokio::test]
async fn settings_that_cannot_be_used_are_refused() {
    assert_eq!(
        refused("[subscriptions.pongs]\nwindow = 2").await,
        "the settings name subscription pongs, app pinger has pings"
    );
    assert_eq!(
        refused("[subscriptions.pings]\nwindow = 0").await,
        "subscription pings: window must be at least 1"
    );
    assert_eq!(
        refused("[subscriptions.pings]\nconcurrency = 0").await,
        "subscription pings: concurrency must be at least 1"
    );
    let bus = memory(1).await;
    let twice = App::builder("pinger").log(&bus).state(Gate::shut()).subscribe(pings()).subscribe(pings());
    assert_eq!(
        twice.build().unwrap_err().to_string(),
        "app pinger has two subscriptions named pings: put their handlers into one"
    );
    let no_log = App::builder("pinger").build().unwrap_err().to_string();
    assert_eq!(no_log, "app pinger has no log: add `.log(&bus)`");
}

/// What the machine holds of other programs is no reason to refuse to start. Red when `Config::load` takes text.
#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_refused_only_where_it_is_ours() {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let odd = || OsString::from_vec(vec![b'/', 0xff]);
    Config::load(None, [(odd(), odd()), ("HOME".into(), odd())]).unwrap();
    let error = Config::load(None, [("AQUEDUCT_LOG_URL".into(), odd())]).unwrap_err();
    assert_eq!(error.to_string(), "setting AQUEDUCT_LOG_URL: it is not UTF-8: \"/\\xFF\"");
}
