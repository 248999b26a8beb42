//! Where the cluster of the tests is.

use std::{
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

/// The URL of the cluster that `cargo xtask kafka up` started, or of the one that the environment names.
pub(crate) fn url() -> String {
    if let Ok(url) = std::env::var("AQUEDUCT_TEST_KAFKA") {
        return url;
    }
    // The folder that cargo builds this very test in.
    let mut folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.pop();
    let file = folder.join("kafka/cluster.json");
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| {
        panic!("no cluster to test against ({}: {error}): cargo xtask kafka up", file.display())
    });
    let state: Value = serde_json::from_str(&text).expect("the state of the cluster");
    state["url"].as_str().expect("the cluster's URL").to_owned()
}

/// A part of the cluster's names that no other test has, as a parameter of the URL.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("prefix={now}-{}-{}.", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
