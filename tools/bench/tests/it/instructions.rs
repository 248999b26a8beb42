//! Instructions per event, counted by valgrind: the same on a busy machine.

use std::process::Command;

use crate::{figures, gates};

/// How far above the committed figure a path may be.
const TOLERANCE: f64 = 0.15;

/// All instructions of a run of `gates`; none where valgrind cannot run.
fn instructions(arguments: &[&str]) -> Option<f64> {
    let answers = Command::new("valgrind").arg("--version").output().is_ok_and(|said| said.status.success());
    if !answers {
        println!("SKIPPED: valgrind is not installed (Debian package valgrind)");
        return None;
    }
    let gates = gates().get_program().to_owned();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*gates::measured*"])
        .arg(gates)
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).expect("a count of instructions");
    Some(collected.1.split_whitespace().next().unwrap().parse().unwrap())
}

fn gate(path: &str, per_event: f64, json: f64, committed: f64) {
    let ours = per_event - json;
    println!(
        "{per_event:.0} instructions per event to {path}: {json:.0} of serde_json alone, {ours:.0} ours; committed {committed:.0}"
    );
    assert!(
        per_event <= committed * (1.0 + TOLERANCE),
        "{per_event:.0} instructions per event to {path}, {committed:.0} are committed"
    );
    assert!(
        per_event >= committed * (1.0 - TOLERANCE),
        "{per_event:.0} instructions per event to {path}: commit the better figure in tools/bench/instructions.json"
    );
}

/// Issue B. What starts and ends an app is the same in both runs, so the difference is that of the events.
///
/// Red when the ready path copies an envelope, or looks a handler up in a map of text more than once.
#[test]
fn consuming_an_event_takes_what_is_committed() {
    let Some(few) = instructions(&["consume", "20", "256"]) else { return };
    let Some(many) = instructions(&["consume", "60", "256"]) else { return };
    let Some(json) = instructions(&["decode", "1000"]) else { return };
    gate("consume", (many - few) / (40.0 * 256.0), json / 1_000.0, figures().consume);
}

/// Issue B: five hundred handlers cost an event no more instructions than one does, at most 1.02 of it. (Time is another
/// matter: five hundred handlers' own code and futures do not fit the nearest caches, see `bench curves`.)
///
/// Red when a handler is looked for one by one.
#[test]
fn an_event_costs_the_same_among_five_hundred_handlers() {
    let per_event = |types: &str| {
        let few = instructions(&["handlers", types, "5120"])?;
        let many = instructions(&["handlers", types, "15360"])?;
        Some((many - few) / 10_240.0)
    };
    let Some((one, all)) = per_event("1").zip(per_event("500")) else { return };
    println!("{one:.0} instructions per event with one handler, {all:.0} with 500: {:.3}", all / one);
    assert!(all <= one * 1.02, "{all:.0} instructions per event with 500 handlers, {one:.0} with one");
}

/// Issue B. Red when an event's names are checked, copied or formatted once more.
#[test]
fn publishing_an_event_takes_what_is_committed() {
    let Some(few) = instructions(&["publish", "5000"]) else { return };
    let Some(many) = instructions(&["publish", "15000"]) else { return };
    let Some(json) = instructions(&["encode", "1000"]) else { return };
    gate("publish", (many - few) / 10_000.0, json / 1_000.0, figures().publish);
}
