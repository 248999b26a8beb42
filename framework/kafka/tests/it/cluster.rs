//! Where the cluster of the tests is.

use std::{
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use rdkafka::ClientConfig;
use serde_json::Value;

/// The URL of the cluster that `cargo xtask kafka up` started, or of the one that the environment names.
pub(crate) fn url() -> String {
    if let Ok(url) = std::env::var("TEST_KAFKA") {
        return url;
    }
    state()["url"].as_str().expect("the cluster's URL").to_owned()
}

/// As a client of librdkafka's has it.
pub(crate) fn brokers() -> String {
    url().trim_start_matches("kafka://").to_owned()
}

/// What others begin with: a client that is none of ours.
pub(crate) fn raw() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers());
    config
}

/// That of a listener with encryption, `tls`, `mutual` or `scram`, with the credentials that are right there.
pub(crate) fn secure(listener: &str) -> String {
    if let Ok(url) = std::env::var(format!("TEST_KAFKA_{}", listener.to_uppercase())) {
        return url;
    }
    let url = state()["secure"][listener].as_str().map(str::to_owned);
    url.unwrap_or_else(|| panic!("the cluster has no listener {listener}: cargo xtask kafka up --secure"))
}

/// The folder in which the first broker has its partitions.
pub(crate) fn data() -> PathBuf {
    std::env::var_os("TEST_KAFKA_DATA").map_or_else(|| home().join("nodes/1/data"), PathBuf::from)
}

/// Kafka's own programs.
pub(crate) fn jars() -> PathBuf {
    // All clusters have them from that of everyday, the one of the tests too.
    home().join("jars")
}

fn home() -> PathBuf {
    // The folder that cargo builds this very test in.
    let mut folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.pop();
    folder.join("kafka")
}

fn state() -> Value {
    let file = home().join("cluster.json");
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| {
        panic!("no cluster to test against ({}: {error}): cargo xtask kafka up", file.display())
    });
    serde_json::from_str(&text).expect("the state of the cluster")
}

/// A part of the cluster's names that no other test has, as a parameter of the URL.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("prefix={now}-{}-{}.", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
