//! Commands, run from the project's root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, ensure};

/// The project's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A program with the words of `line`, in the root.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).current_dir(root());
    command
}

/// Runs it, shows it and its time, and fails when it fails.
pub(crate) fn step(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    println!("\n== {shown}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    println!("== {:.1} s: {shown}", started.elapsed().as_secs_f64());
    Ok(())
}

/// Whether the program is there and answers.
pub(crate) fn answers(line: &str) -> bool {
    command(line).output().is_ok_and(|output| output.status.success())
}

/// The shop's binary, built.
pub(crate) fn shop() -> anyhow::Result<PathBuf> {
    step(&mut command("cargo build --release --package shop"))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release/shop"))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
