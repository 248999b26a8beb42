//! Commands, run from the project's root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Instant,
};

use anyhow::{Context, ensure};

/// The project's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// This program. Once it was asked for, that stays: what is built meanwhile is put in its place.
pub(crate) fn own() -> anyhow::Result<PathBuf> {
    static OWN: OnceLock<PathBuf> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own.clone());
    }
    let own = std::env::current_exe().context("cannot find this program")?;
    Ok(OWN.get_or_init(|| own).clone())
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

/// Finds a program, or installs its Debian package.
pub(crate) fn need(probe: &str, package: &str) -> anyhow::Result<()> {
    if answers(probe) {
        return Ok(());
    }
    let install = || {
        step(&mut command("apt-get update"))?;
        step(Command::new("apt-get").args(["install", "--yes", "--no-install-recommends", package]))
    };
    install().with_context(|| format!("`{probe}` does not answer, and {package} cannot be installed"))?;
    ensure!(answers(probe), "{package} is installed, and `{probe}` still fails");
    Ok(())
}

/// Runs it, and shows what it said only where it fails.
pub(crate) fn quiet(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        output.status.success(),
        "{shown}: {}\n{}\n{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    Ok(())
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target)
}

/// The shop's binary, built.
pub(crate) fn shop() -> anyhow::Result<PathBuf> {
    step(&mut command("cargo build --release --package shop"))?;
    Ok(target().join("release/shop"))
}

/// What is built.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Built {
    /// What is needed alone.
    #[default]
    Alone,
    /// Everything, as the test command does. Any part of it alone would share its dependencies with other features, and build
    /// them again.
    Everything,
}

/// The programs that know Kafka.
const KAFKA: &str = "--features chaos/kafka,shop/kafka,inventory/kafka,recommendation/kafka";

/// A cargo command on everything, with Kafka.
pub(crate) fn everything(command_of_cargo: &str) -> Command {
    command(&format!("cargo {command_of_cargo} --release --workspace --locked {KAFKA}"))
}

/// Builds what is killed on purpose and what judges it, with Kafka, and says where it is.
pub(crate) fn killed(built: Built) -> anyhow::Result<PathBuf> {
    match built {
        Built::Everything => step(&mut everything("build --all-targets"))?,
        Built::Alone => {
            let killed = "--package chaos --package shop --package inventory --package recommendation";
            let judges = "--package checker --package kafka-observer";
            step(&mut command(&format!("cargo build --release --locked {killed} {judges} {KAFKA}")))?;
        }
    }
    Ok(target().join("release"))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
