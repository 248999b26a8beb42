//! The checker as others use it: its manifest, its files, its command.

use std::{collections::BTreeSet, fs};

use checker::{History, Observation, Recorder};

/// The checker decides over our crates, so it links none. Red when a dependency of ours is added to the manifest.
#[test]
fn the_manifest_names_no_crate_of_ours() {
    let allowed = ["anyhow", "clap", "rusqlite", "rustix", "serde", "serde_json", "tempfile"];
    let named = dependencies(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), &allowed);
    assert!(named.contains("serde"), "the dependencies were not found");
}

/// Nor does the observer of a cluster, but for the checker's own words. Red as above.
#[test]
fn the_manifest_of_the_kafka_observer_names_no_crate_of_ours_but_the_checker() {
    let allowed = ["anyhow", "checker", "clap", "rdkafka", "rusqlite"];
    let named = dependencies(concat!(env!("CARGO_MANIFEST_DIR"), "/../kafka-observer/Cargo.toml"), &allowed);
    assert!(named.contains("rdkafka"), "the dependencies were not found");
}

/// The names of a manifest's dependencies, all of them allowed.
fn dependencies(manifest: &str, allowed: &[&str]) -> BTreeSet<String> {
    let manifest = fs::read_to_string(manifest).unwrap_or_default();
    let mut section = "";
    let mut named = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && !line.is_empty() {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            assert!(allowed.contains(&name), "{name} in {section}");
            assert!(!line.contains("path") && !line.contains("package"), "{line}");
            named.insert(name.to_owned());
        }
        assert!(!section.contains("dependencies."), "{section}: one line for each dependency");
    }
    named
}

/// A kill tears no line but the last, and that one was not written. Red when `History::read` takes a line that has no end.
#[test]
fn files_are_read_as_they_were_written_and_a_torn_last_line_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.1.jsonl");
    let before = checker::now();
    let recorder = Recorder::open(&path, "a.1").unwrap();
    let saw = |fault| Observation::Fault { fault, kind: "kill".to_owned(), target: "b".to_owned() };
    recorder.write(saw(1)).unwrap();
    recorder.write_as(17, "b.2", saw(2)).unwrap();
    let mut history = History::new();
    history.read(&path).unwrap();
    assert_eq!(history.lines().len(), 2);
    let [first, second] = history.lines() else { panic!() };
    assert!((before..=checker::now()).contains(&first.at));
    assert_eq!((first.by.as_str(), &first.saw), ("a.1", &saw(1)));
    assert_eq!((second.at, second.by.as_str(), &second.saw), (17, "b.2", &saw(2)));

    let mut text = fs::read(&path).unwrap();
    text.pop();
    fs::write(&path, &text).unwrap();
    let mut torn = History::new();
    torn.read_folder(folder.path()).unwrap();
    assert_eq!(torn.lines(), &history.lines()[..1]);

    fs::write(&path, "{}\n").unwrap();
    let error = torn.read(&path).unwrap_err().to_string();
    assert!(error.contains("a.1.jsonl, line 1: missing field"), "{error}");
}
