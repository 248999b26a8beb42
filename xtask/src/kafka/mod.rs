//! A real Apache Kafka cluster on this machine, for tests and for trying things: brokers of combined roles (KRaft) that
//! outlive this command. Everything is in `target/kafka`.

mod broker;
mod install;
mod leaders;
mod secure;
mod state;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use rustix::process::Signal;

use broker::Life;
pub(crate) use state::Cluster;
use state::{Broker, Listening};

use crate::run::{Built, command, everything, need, own, step, target};

/// How long brokers may take until they listen: a cold JVM on a busy machine.
const START: Duration = Duration::from_secs(120);

/// How long a broker may take to hand over and close its files.
const STOP: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Start a cluster, or the one of before again, with its data and ports; prints its URL.
    Up {
        /// How many brokers.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
        brokers: u16,
        /// The first broker's port; without it 9092 where that is free.
        #[arg(long)]
        port: Option<u16>,
        /// Remove the data of before first.
        #[arg(long)]
        fresh: bool,
        /// Add listeners for TLS, mutual TLS, and SCRAM-SHA-512 over TLS, with certificates and users of their own.
        #[arg(long)]
        secure: bool,
    },
    /// Stop all brokers; their data stays.
    Down,
    /// Say which brokers run.
    Status,
    /// Kill a broker with SIGKILL.
    Kill { broker: u16 },
    /// Stop a broker's process where it stands (SIGSTOP).
    Pause { broker: u16 },
    /// Let a paused broker go on.
    Resume { broker: u16 },
    /// Stop a broker in order, if it runs, and start it again.
    Restart { broker: u16 },
    /// Give partitions of a topic another leader.
    MoveLeader {
        topic: String,
        /// This one alone.
        #[arg(long)]
        partition: Option<i32>,
    },
    /// Test the Kafka log against a broker of its own.
    Test,
}

pub(crate) fn run(action: &Action, cluster: Option<&Path>) -> anyhow::Result<()> {
    if let Some(folder) = cluster {
        state::step_aside(folder);
    }
    match *action {
        Action::Up { brokers, port, fresh, secure } => {
            show(&up(brokers, port, fresh, Listening { secure, proxied: false })?);
            Ok(())
        }
        Action::Down => down(),
        Action::Status => status(),
        Action::Kill { broker } => {
            Cluster::load()?.signal(broker, Signal::KILL)?;
            wait_until_gone(Cluster::load()?.broker(broker)?)
        }
        Action::Pause { broker } => Cluster::load()?.signal(broker, Signal::STOP),
        Action::Resume { broker } => Cluster::load()?.signal(broker, Signal::CONT),
        Action::Restart { broker } => restart(broker),
        Action::MoveLeader { ref topic, partition } => leaders::shift(&Cluster::load()?, topic, partition),
        Action::Test => test(Built::Alone),
    }
}

/// Tests the Kafka log, or everything, with a new broker, which ends with the test.
pub(crate) fn test(built: Built) -> anyhow::Result<()> {
    // A client of others, in `interop`: imported, which says whether it is there.
    need("/usr/bin/python3 -m confluent_kafka.error", "python3-confluent-kafka")?;
    for_tests(|place| {
        // What harms the broker comes alone, behind the others.
        for which in ["", "--test it slow:: -- --ignored --test-threads=1 --nocapture"] {
            let mut tests = match built {
                Built::Alone => command("cargo test --release --package aqueduct-kafka --locked"),
                Built::Everything => everything("test"),
            };
            step(tests.args(which.split_whitespace()).envs(place.iter().cloned()))?;
        }
        Ok(())
    })
}

/// Runs something with a new broker, which tests find by these variables of the environment.
pub(crate) fn for_tests(
    run: impl FnOnce(&Vec<(String, OsString)>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_broker(true, |cluster| {
        let name = |name: &str| format!("TEST_KAFKA{name}");
        let mut place = vec![
            (name(""), cluster.url().into()),
            (name("_DATA"), cluster.broker(1)?.data().into()),
            (name("_XTASK"), own()?.into()),
            (name("_CLUSTER"), state::home().into()),
        ];
        let secure = secure::urls(cluster).into_iter();
        place.extend(
            secure.map(|(listener, url)| (name(&format!("_{}", listener.to_uppercase())), url.into())),
        );
        run(&place)
    })
}

/// Measures on a new broker, which ends with the bench. `--peers` among the arguments builds the program of the peers, and
/// becomes where it is.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let (peers, arguments): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| *argument == "--peers");
    let peers = if peers.is_empty() { None } else { Some(build_peers()?) };
    with_broker(false, |cluster| {
        let mut bench = command("cargo run --release --package bench-kafka --locked -- --log");
        bench.arg(cluster.url()).args(arguments);
        if let Some(peers) = &peers {
            bench.arg("--peers").arg(peers);
        }
        step(&mut bench)
    })
}

/// Builds what is measured beside us, by a lock file of its own and into a folder of its own.
fn build_peers() -> anyhow::Result<PathBuf> {
    let folder = target().join("bench-peers");
    let mut build = command("cargo build --release --locked --manifest-path tools/bench-peers/Cargo.toml");
    step(build.arg("--target-dir").arg(&folder)).context(
        "tools/bench-peers cannot be built, without which --peers measures nothing; its crates come from crates.io",
    )?;
    Ok(folder.join("release/bench-peers"))
}

/// Runs something with a broker of its own, beside one that may be there for the user.
pub(crate) fn with_broker(
    secure: bool,
    run: impl FnOnce(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    state::step_aside(&target().join("kafka-test"));
    // A run that was killed may have left one.
    down()?;
    let ran = up(1, None, true, Listening { secure, proxied: false }).and_then(|cluster| run(&cluster));
    down()?;
    ran
}

/// Runs something with three new brokers in `folder`, whose ports a proxy is to take.
pub(crate) fn with_cluster(folder: &Path, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    state::step_aside(folder);
    down()?;
    let ran = up(3, None, true, Listening { secure: false, proxied: true }).and_then(|_| run());
    down()?;
    ran
}

/// What a client needs, a line for each listener.
fn show(cluster: &Cluster) {
    println!("{}", cluster.url());
    for (name, url) in secure::urls(cluster) {
        // Quoted: a shell would end the command at the first `&`.
        println!("{name:6} '{url}'");
    }
}

/// Starts what is not running.
fn up(brokers: u16, port: Option<u16>, fresh: bool, listening: Listening) -> anyhow::Result<Cluster> {
    let _held = state::lock()?;
    let mut cluster = match Cluster::load_if_any()? {
        Some(cluster) if fresh => {
            let running = cluster.running();
            ensure!(running.is_empty(), "brokers {running:?} run; `cargo xtask kafka down` first");
            let new = Cluster::new(brokers, port, listening)?;
            if state::nodes().exists() {
                fs::remove_dir_all(state::nodes()).context("cannot remove the data of before")?;
            }
            new
        }
        Some(cluster) => {
            ensure!(
                cluster.brokers.len() == usize::from(brokers),
                "there is a cluster of {} brokers in {}; ask for as many, or for a new one with --fresh",
                cluster.brokers.len(),
                state::home().display()
            );
            let first = cluster.brokers.first().map(|broker| broker.port);
            ensure!(
                port.is_none() || port == first,
                "the cluster in {} has its first broker at port {}; ask for a new one with --fresh",
                state::home().display(),
                first.unwrap_or_default()
            );
            ensure!(
                !listening.secure || cluster.is_secure(),
                "the cluster in {} was made without secure listeners; ask for a new one with --fresh",
                state::home().display()
            );
            cluster
        }
        None => Cluster::new(brokers, port, listening)?,
    };
    install::jars()?;
    if cluster.is_secure() {
        secure::prepare()?;
    }
    cluster.save()?;
    broker::format(&cluster)?;
    for number in 0..cluster.brokers.len() {
        if cluster.brokers[number].life() == Life::Dead {
            broker::start(&mut cluster, number)?;
            // A kill between here and the end leaves brokers that `down` finds.
            cluster.save()?;
        }
    }
    wait_until_listening(&cluster.brokers)?;
    Ok(cluster)
}

fn wait_until_listening<'a>(brokers: impl IntoIterator<Item = &'a Broker>) -> anyhow::Result<()> {
    let started = Instant::now();
    for broker in brokers {
        while !broker.listens() {
            ensure!(broker.life() != Life::Paused, "broker {} is paused; resume it", broker.id);
            if broker.life() == Life::Dead {
                bail!("broker {} died. The end of {}:\n{}", broker.id, broker.log().display(), broker.tail());
            }
            ensure!(
                started.elapsed() < START,
                "broker {} does not listen at port {} after {START:?}. The end of {}:\n{}",
                broker.id,
                broker.port,
                broker.log().display(),
                broker.tail()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Stops all brokers, in order where they react, else by force.
fn down() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::load_if_any()? else { return Ok(()) };
    for broker in &cluster.brokers {
        // A paused process takes no other signal.
        broker.signal(Signal::CONT)?;
        // Of several brokers none can leave in order once most are gone: there is nobody to hand over to.
        broker.signal(if cluster.brokers.len() == 1 { Signal::TERM } else { Signal::KILL })?;
    }
    for broker in &cluster.brokers {
        if wait_until_gone(broker).is_err() {
            broker.signal(Signal::KILL)?;
            wait_until_gone(broker)?;
        }
    }
    Ok(())
}

fn restart(number: u16) -> anyhow::Result<()> {
    let held = state::lock()?;
    let mut cluster = Cluster::load()?;
    let broker = cluster.broker(number)?;
    broker.signal(Signal::CONT)?;
    broker.signal(Signal::TERM)?;
    if wait_until_gone(broker).is_err() {
        broker.signal(Signal::KILL)?;
        wait_until_gone(broker)?;
    }
    broker::start(&mut cluster, usize::from(number - 1))?;
    cluster.save()?;
    drop(held);
    wait_until_listening([cluster.broker(number)?])
}

fn status() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::load_if_any()? else {
        println!("there is no cluster in {}", state::home().display());
        return Ok(());
    };
    for broker in &cluster.brokers {
        let life = match broker.life() {
            Life::Runs if broker.listens() => "runs",
            Life::Runs => "starts",
            Life::Paused => "is paused",
            Life::Dead => "is dead",
        };
        println!("broker {} {life}: port {}, log {}", broker.id, broker.port, broker.log().display());
    }
    show(&cluster);
    Ok(())
}

fn wait_until_gone(broker: &Broker) -> anyhow::Result<()> {
    let started = Instant::now();
    while broker.life() != Life::Dead {
        ensure!(started.elapsed() < STOP, "broker {} did not end within {STOP:?}", broker.id);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
