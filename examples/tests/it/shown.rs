//! The examples that end by themselves say what they promise.

use std::process::Command;

fn says(name: &str) -> String {
    let output = Command::new(super::example(name)).output().unwrap();
    let (said, failed) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}{failed}");
    said
}

#[test]
fn given_when_then() {
    assert_eq!(says("given_when_then"), "as it should be\n");
}

/// P4, P10, in 200 worlds.
#[test]
fn simulate() {
    assert!(says("simulate").starts_with("each deposit counted once; on the way: {"));
}

/// P3: what comes twice does not matter.
#[test]
fn idempotent() {
    assert!(says("idempotent").starts_with("one parcel for each order, through "));
}

/// P9: the paused process's order is shipped by the other one; an hour takes no time.
#[test]
fn scripted_log() {
    let said = says("scripted_log");
    assert!(said.starts_with("one ships order 1\n"), "{said}");
    assert!(said.contains("two ships order 2\n"), "{said}");
    assert!(said.ends_with("settled [2] after 3605 s\n"), "{said}");
}

/// P4, topic to topic: five crashes double and lose nothing.
#[test]
fn exactly_once() {
    assert_eq!(says("exactly_once"), "2000 sold, tax due 2000 times\n");
}

/// P2, P6: the key that failed goes on in order once it is released; the other does not wait.
#[test]
fn parking() {
    let said = says("parking");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[..2].contains(&"invoice 2 for zenith"), "{said}");
    assert!(lines[..2].contains(&"parked: acme with 2 invoices: acme has no address"), "{said}");
    assert_eq!(lines[2..], ["invoice 1 for acme", "invoice 3 for acme"]);
}
