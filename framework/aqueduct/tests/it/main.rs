//! What a user of the one crate meets first: the URL, the derive, the first publish.
#![cfg(all(feature = "embedded", feature = "memory"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test says what went wrong by where it panics")]

#[cfg(all(feature = "app", feature = "sqlite"))]
mod positions;
#[cfg(all(feature = "app", feature = "sqlite"))]
mod replay;

use aqueduct::{LogErrorKind, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "till.BasketCheckedOut", topic = "till.baskets", key = store)]
struct BasketCheckedOut {
    store: u32,
}

#[derive(EventSet)]
enum TillEvent {
    Basket(BasketCheckedOut),
}

/// P12. Red when `connect` ignores what follows `memory:`, or does not say which logs there are.
#[tokio::test]
async fn a_url_that_is_wrong_says_how() {
    let kafka = if cfg!(feature = "kafka") { "kafka://HOST:PORT and " } else { "" };
    let has = format!("this build has embedded:PATH and {kafka}memory:");
    let unknown = |scheme| format!("the log URL's scheme {scheme:?} is not known; {has}");
    let (misspelt, empty) = (unknown("embeded"), unknown(""));
    for (url, text) in [
        ("embeded:./shop.db", misspelt.as_str()),
        ("", &empty),
        ("memory:?partitions=4", "\"memory:?..\" is not a log: expected memory:"),
        (
            "embedded:shop.db?partition=4",
            "\"embedded:shop.db?..\": unknown parameter \"partition\", did you mean \"partitions\"?",
        ),
    ] {
        let error = aqueduct::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Configuration, "{url}");
        assert_eq!(error.to_string(), text);
    }
}

/// P1. The same lines on both logs: only the URL differs.
#[tokio::test]
async fn the_first_publish_works_on_both_logs() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = format!("embedded:{}?partitions=2", folder.path().join("shop.db").display());
    for url in ["memory:", &embedded] {
        let bus = aqueduct::connect(url).await.unwrap().with_source("till");
        let first = bus.publish(&BasketCheckedOut { store: 7 }).await.unwrap();
        let set = TillEvent::from(BasketCheckedOut { store: 7 });
        let second = bus.publish(&set).await.unwrap();
        assert_eq!(first.partition, second.partition, "{url}");
        assert!(first.offset < second.offset, "{url}");
        bus.log().close().await.unwrap();
    }
}
