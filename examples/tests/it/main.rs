//! The examples run and say what they promise, and the README shows what is there.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod shown;
mod stuck;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The binary of an example.
fn example(name: &str) -> PathBuf {
    // The test binary stands in target/release/deps, examples beside it.
    let binary = std::env::current_exe().unwrap();
    binary.parent().and_then(Path::parent).unwrap().join("examples").join(name)
}

/// The README's hello world is the example, whole, and has at most fifteen lines.
#[test]
fn the_readme_shows_the_example_that_runs() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read_to_string(here.join("hello.rs")).unwrap();
    let (_, code) = file.split_once("\n\n").unwrap();
    let readme = fs::read_to_string(here.join("../README.md")).unwrap();
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md does not show examples/hello.rs");
    assert!(code.lines().filter(|line| !line.is_empty()).count() <= 15);
}

/// P1, P3, P9: it greets, drains at SIGINT, and does not greet twice after a restart.
#[test]
fn hello_greets_once_for_each_publish() {
    let hello = example("hello");
    let folder = tempfile::tempdir().unwrap();
    for run in 1..=2 {
        let mut child =
            Command::new(&hello).current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "hello, world", "run {run}");
        let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(interrupt.success());
        assert!(child.wait().unwrap().success(), "run {run}");
        // What a second run greets is its own publish alone.
        assert!(lines.next().is_none(), "run {run}");
    }
}
