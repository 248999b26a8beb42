//! Plants each bug of the table in turn and looks whether the test that is there for it turns red.

mod kafka_table;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{
    kafka,
    run::{command, root, step},
};
use kafka_table::KAFKA_BUGS;
use table::{BUGS, Binary, Bug};

/// A test that hangs has not caught anything.
const LIMIT: Duration = Duration::from_secs(60);
/// At once: most tests wait for the disk or for virtual time.
const WORKERS: usize = 3;
/// Of the simulation.
const SEEDS: &str = "500";

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// This bug alone.
    #[arg(long)]
    only: Option<String>,
    /// Only those of the Kafka log, on a broker that is started for them.
    #[arg(long)]
    kafka: bool,
    /// None of those of the Kafka log.
    #[arg(long, conflicts_with = "kafka")]
    without_kafka: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let (bugs, of_kafka): (&[Bug], &[Bug]) = match options {
        Options { kafka: true, .. } => (&[], KAFKA_BUGS),
        Options { without_kafka: true, .. } => (BUGS, &[]),
        Options { .. } => (BUGS, KAFKA_BUGS),
    };
    let names: Vec<_> = bugs.iter().chain(of_kafka).collect();
    let is_chosen = |bug: &&Bug| options.only.as_deref().is_none_or(|only| only == bug.name);
    let of_kafka: Vec<_> = of_kafka.iter().filter(is_chosen).collect();
    let needs_broker = !of_kafka.is_empty();
    let chosen: Vec<_> = bugs.iter().filter(is_chosen).chain(of_kafka).collect();
    if chosen.is_empty() {
        let names: Vec<_> = names.iter().map(|bug| bug.name).collect();
        bail!("no bug has this name; there are: {}", names.join(", "));
    }
    let built = build(&chosen.iter().map(|bug| bug.binary).collect())?;
    if needs_broker {
        return kafka::for_tests(|place| plant(&chosen, &built, place));
    }
    plant(&chosen, &built, &Vec::new())
}

/// What tests find in their environment.
type Place = Vec<(String, OsString)>;

fn plant(chosen: &[&Bug], built: &BTreeMap<Binary, PathBuf>, place: &Place) -> anyhow::Result<()> {
    let mut tests: BTreeMap<Binary, BTreeSet<&str>> = BTreeMap::new();
    for bug in chosen {
        tests.entry(bug.binary).or_default().extend(bug.tests);
    }
    let started = Instant::now();
    for (binary, tests) in &tests {
        let tests: Vec<_> = tests.iter().copied().collect();
        let ended = attempt(&built[binary], *binary, &tests, None, place)?;
        let passed = format!("test result: ok. {} passed", tests.len());
        ensure!(
            ended.said.contains(&passed),
            "void: without a bug not all of {binary:?} {tests:?} are there and green:\n{}",
            ended.said
        );
    }
    println!("\n== {} bugs; without one all their tests are green", chosen.len());
    let (next, verdicts) = (Mutex::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let index = {
                    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                    *next += 1;
                    *next - 1
                };
                let Some(bug) = chosen.get(index) else { return Ok(()) };
                let ended = attempt(&built[&bug.binary], bug.binary, bug.tests, Some(bug.name), place)?;
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(index, ended);
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut caught = 0;
    for (bug, ended) in chosen.iter().zip(verdicts.values()) {
        let by = ended.failed();
        caught += usize::from(by.is_some());
        let (verdict, by) = match &by {
            Some(by) => ("caught", by.as_str()),
            None if ended.hung => ("HUNG", "no test failed within the limit"),
            None => ("ESCAPED", "no test failed"),
        };
        let Bug { name, rule, breaks, .. } = bug;
        println!(
            "{verdict:8} {rule:4} {name}: {breaks}\n              {:.1} s, {by}",
            ended.took.as_secs_f64()
        );
    }
    println!("\n{caught} of {} caught in {:.0} s", chosen.len(), started.elapsed().as_secs_f64());
    ensure!(caught == chosen.len(), "{} of {} bugs escaped", chosen.len() - caught, chosen.len());
    Ok(())
}

/// How a test binary ended.
#[derive(Debug)]
struct Ended {
    said: String,
    hung: bool,
    took: Duration,
}

impl Ended {
    /// The tests that failed.
    fn failed(&self) -> Option<String> {
        let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
        let failed: Vec<_> = self.said.lines().filter_map(failed).collect();
        (!failed.is_empty()).then(|| failed.join(", "))
    }
}

/// Builds the test binaries with bugs to plant.
fn build(binaries: &BTreeSet<Binary>) -> anyhow::Result<BTreeMap<Binary, PathBuf>> {
    let mut cargo =
        command("cargo test --release --no-run --locked --message-format=json-render-diagnostics");
    // It is always among the packages: the feature is its.
    cargo.args(["--features", "aqueduct-core/planted", "--package", "aqueduct-core"]);
    for folder in std::fs::read_dir(root().join("framework"))? {
        // Built for this alone, and run for seconds.
        let package = package(&folder?.file_name().to_string_lossy());
        cargo.args(["--config", &format!("profile.release.package.{package}.opt-level=1")]);
    }
    for folder in binaries.iter().map(Binary::folder) {
        cargo.args(["--package", &package(folder)]);
    }
    println!("\n== building tests with bugs to plant");
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests do not build: {}", output.status);
    let mut built = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let (Some(executable), Some(manifest), Some(kind)) = (
            message["executable"].as_str(),
            message["manifest_path"].as_str(),
            message["target"]["kind"][0].as_str(),
        ) else {
            continue;
        };
        let folder = Path::new(manifest).parent().and_then(Path::file_name).unwrap_or_default();
        let binary = binaries.iter().find(|binary| binary.folder() == folder && binary.kind() == kind);
        built.extend(binary.map(|binary| (*binary, PathBuf::from(executable))));
    }
    for binary in binaries {
        ensure!(built.contains_key(binary), "cargo did not build {binary:?}");
    }
    Ok(built)
}

impl Binary {
    fn folder(&self) -> &'static str {
        match self {
            Self::Unit(folder) | Self::It(folder) => folder,
        }
    }

    /// As cargo calls it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Unit(_) => "lib",
            Self::It(_) => "test",
        }
    }
}

fn package(folder: &str) -> String {
    if folder == "aqueduct" { folder.to_owned() } else { format!("aqueduct-{folder}") }
}

/// Runs some tests, with a bug or without.
fn attempt(
    executable: &Path,
    binary: Binary,
    tests: &[&str],
    bug: Option<&str>,
    place: &Place,
) -> anyhow::Result<Ended> {
    let mut command = Command::new(executable);
    command.arg("--exact").args(tests).current_dir(root().join("framework").join(binary.folder()));
    command.env("AQUEDUCT_SEEDS", SEEDS).env_remove("AQUEDUCT_PLANTED");
    command.envs(place.iter().map(|(name, value)| (name, value)));
    command.envs(bug.map(|bug| ("AQUEDUCT_PLANTED", bug)));
    // A group of its own, so that the processes which a hung test has started end with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", executable.display()))?;
    let mut output = child.stdout.take().context("the output is piped")?;
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        output.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let hung = loop {
        if child.try_wait()?.is_some() {
            break false;
        }
        if started.elapsed() > LIMIT {
            break true;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = started.elapsed();
    if hung {
        let group = format!("-{}", child.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).status()?;
        ensure!(killed.success(), "cannot end {}", executable.display());
        child.wait()?;
    }
    let said = said.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(Ended { said, hung, took })
}

/// The gate, the ring and the lanes under many schedules.
pub(crate) fn schedules() -> anyhow::Result<()> {
    step(&mut command(
        "cargo test --release --locked --package aqueduct-runtime --features shuttle --lib schedules::",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sites(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split("planted(\"").skip(1).filter_map(|rest| rest.split_once('"'));
                found.extend(names.map(|(name, _)| name.to_owned()));
            }
        }
    }

    /// Red when a bug is listed and cannot be planted, is planted in two places, or is not listed.
    #[test]
    fn each_bug_has_one_site_and_each_site_is_listed() {
        let mut found = Vec::new();
        for package in std::fs::read_dir(root().join("framework")).unwrap() {
            sites(&package.unwrap().path().join("src"), &mut found);
        }
        found.sort();
        let mut listed: Vec<_> = BUGS.iter().chain(KAFKA_BUGS).map(|bug| bug.name).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
        assert!(BUGS.len() >= 30);
        for rule in ["R1", "R2", "R3", "R4", "R7"] {
            assert!(BUGS.iter().any(|bug| bug.rule == rule), "{rule}");
        }
    }
}
