//! A shop's life: it plays the sales, is interrupted, goes on; nothing is done twice.

use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt};

use aqueduct::rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::support::{Folder, Running, SOON, get};

/// What the data alone fixes.
fn assert_totals(report: &Value) {
    assert_eq!(report["baskets_published"], 30);
    assert_eq!(report["lines_set_aside"], json!({ "zero_quantity": 1, "fuel": 1 }));
    let services = &report["services"];
    for service in ["inventory", "recommendation"] {
        assert_eq!(
            (&services[service]["baskets_handled"], &services[service]["dead_letters"]),
            (&json!(30), &json!(0))
        );
    }
    let units = |name: &str| services["inventory"][name].as_i64().unwrap();
    assert_eq!(units("units_sold") + units("units_refused"), 60);
}

/// How many records each topic of the log has had, but for those of the relays.
fn records(folder: &Folder) -> BTreeMap<String, i64> {
    let log =
        Connection::open_with_flags(folder.path("state/log.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut counts = log
        .prepare(
            "SELECT topic.name, sum(next_offset) FROM partition JOIN topic ON topic.id = topic_id GROUP BY 1",
        )
        .unwrap();
    let counts = counts.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap);
    counts.filter(|(topic, _): &(String, i64)| !topic.ends_with(".outbox-cursor")).collect()
}

/// P4, P11. Red when the feed does not look at what the log holds: the second run then publishes it all again.
#[test]
fn a_second_run_does_nothing_twice() {
    let folder = Folder::new();
    let sales = folder.sales();
    let report = folder.play(&sales);
    assert_totals(&report);
    let stored = records(&folder);
    assert_eq!(stored.get("till.baskets"), Some(&30), "{stored:?}");
    assert_eq!(folder.play(&sales), report);
    assert_eq!(records(&folder), stored);
}

/// P9. Red when the shop does not wait for its services after a signal, or the feed begins anew.
#[test]
fn an_interrupted_shop_goes_on_where_it_stopped() {
    let folder = Folder::new();
    let sales = folder.sales();
    let mut shop = folder.shop(&["--data", &sales, "--speed", "60"]);
    // What other programs keep in the environment is no concern of ours.
    let mut shop = Running::start(shop.env("OTHER", OsStr::from_bytes(b"\xff")));
    let address = shop.address();
    let line = shop.line(|line| line.contains(" baskets/s "));
    assert!(line.starts_with("2017-01-02 10:0"), "{line}");
    for part in [" baskets  inventory lag ", "  recommendation lag "] {
        assert!(line.contains(part), "{line}");
    }
    for service in ["inventory", "recommendation"] {
        let (status, kind, summary) = get(address, &format!("/{service}/summary"));
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        assert!(summary["baskets_handled"].as_i64().unwrap() > 0, "{summary}");
        let (status, _, ready) = get(address, &format!("/{service}/health/ready"));
        assert_eq!((status, ready), (200, json!({ "ready": true, "reasons": [] })));
        let path = format!("/{service}/nowhere");
        let (status, kind, problem) = get(address, &path);
        assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
        assert_eq!((&problem["status"], &problem["instance"]), (&json!(404), &json!(path)));
    }
    let (status, kind, _) = get(address, "/nowhere");
    assert_eq!((status, kind.as_str()), (404, "application/problem+json"));
    shop.interrupt();
    let ended = shop.end(SOON);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    let baskets = records(&folder)["till.baskets"];
    assert!((1..30).contains(&baskets), "{baskets} baskets");
    assert_totals(&folder.play(&sales));
    assert_eq!(records(&folder)["till.baskets"], 30);
}

/// A log that ends with the process: all is played, and it ends by itself.
#[test]
fn it_plays_on_a_log_in_memory() {
    let folder = Folder::new();
    let (sales, report) = (folder.sales(), folder.text("report.json"));
    let args = ["--data", &sales, "--log", "memory:", "--speed", "max", "--until-end", "--report", &report];
    let ended = Running::start(&mut folder.shop(&args)).end(std::time::Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_totals(&serde_json::from_str(&ended.stdout).unwrap());
}
