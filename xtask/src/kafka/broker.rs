//! One broker: its files and its process.

use std::{
    fs::{self, File},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    secure,
    state::{Behind, Broker, Cluster, nodes, shared},
};

/// How much of a dead broker's log is shown.
const TAIL: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    Paused,
    Dead,
}

impl Broker {
    fn home(&self) -> PathBuf {
        nodes().join(self.id.to_string())
    }

    /// Where its partitions are.
    pub(super) fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    fn settings(&self) -> PathBuf {
        self.home().join("server.properties")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.home().join("broker.log")
    }

    pub(super) fn tail(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    pub(super) fn listens(&self) -> bool {
        // A broker opens its listeners one after the other.
        let secure = self.secure_ports.into_iter().flat_map(|ports| [ports.tls, ports.mutual, ports.scram]);
        let plain = match self.behind {
            Some(Behind { port, direct }) => vec![port, direct],
            None => vec![self.port],
        };
        plain.into_iter().chain(secure).all(|port| TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    pub(super) fn life(&self) -> Life {
        let Some(pid) = self.pid else { return Life::Dead };
        // The number may be another process's by now.
        let ours = fs::read_to_string(format!("/proc/{pid}/cmdline"))
            // Empty for a moment while the process becomes `java` (measured: one look in fifty).
            .is_ok_and(|line| line.is_empty() || line.contains(&*self.settings().to_string_lossy()));
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match state.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
            _ if !ours => Life::Dead,
            Some('T') => Life::Paused,
            Some('Z' | 'X') | None => Life::Dead,
            Some(_) => Life::Runs,
        }
    }

    /// Sends a signal, unless the process has ended.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.life() == Life::Dead {
            return Ok(());
        }
        let Some(pid) = self.pid.and_then(Pid::from_raw) else { return Ok(()) };
        kill_process(pid, signal).with_context(|| format!("cannot signal broker {}", self.id))
    }
}

/// Writes each broker's settings, and prepares the data folder of those that have none.
pub(super) fn format(cluster: &Cluster) -> anyhow::Result<()> {
    let mut formatting = Vec::new();
    for broker in &cluster.brokers {
        fs::create_dir_all(broker.home())
            .with_context(|| format!("cannot make {}", broker.home().display()))?;
        fs::write(broker.settings(), settings(cluster, broker))
            .with_context(|| format!("cannot write {}", broker.settings().display()))?;
        if broker.data().join("meta.properties").exists() {
            continue;
        }
        let mut java = java("kafka.tools.StorageTool");
        java.args(["format", "-t", &cluster.id, "-c"]).arg(broker.settings());
        if broker.secure_ports.is_some() {
            java.args(["--add-scram", &secure::user()?]);
        }
        formatting.push((broker, spawn(broker, &mut java)?));
    }
    for (broker, mut child) in formatting {
        let status = child.wait()?;
        ensure!(
            status.success(),
            "the data folder of broker {} cannot be prepared: {status}. The end of {}:\n{}",
            broker.id,
            broker.log().display(),
            broker.tail()
        );
    }
    Ok(())
}

/// Starts a broker's process, which outlives this one.
pub(super) fn start(cluster: &mut Cluster, number: usize) -> anyhow::Result<()> {
    let alone = cluster.brokers.len() == 1;
    let broker = &mut cluster.brokers[number];
    ensure!(!broker.listens(), "port {} of broker {} is in use", broker.port, broker.id);
    let mut java = java("kafka.Kafka");
    java.arg(broker.settings());
    // The options of the JVM come first; `java` put the class path there.
    // Several are started again and again: what takes the least to start, and less memory each.
    let options = if alone { "-Xmx1g" } else { "-Xmx400m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC" };
    java.env("JDK_JAVA_OPTIONS", format!("{options} -Xms256m"));
    let child = spawn(broker, &mut java)?;
    broker.pid = Some(i32::try_from(child.id())?);
    Ok(())
}

pub(super) fn java(class: &str) -> Command {
    let mut java = Command::new("java");
    java.arg("-Dorg.slf4j.simpleLogger.showDateTime=true");
    java.arg("-cp").arg(shared().join("jars/*")).arg(class);
    java
}

fn spawn(broker: &Broker, command: &mut Command) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(broker.log());
    let log = log.with_context(|| format!("cannot open {}", broker.log().display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A group of its own: Ctrl-C here does not end it.
    command.process_group(0);
    command.spawn().context("cannot run java")
}

fn settings(cluster: &Cluster, broker: &Broker) -> String {
    let voters: Vec<_> = cluster
        .brokers
        .iter()
        .map(|broker| format!("{}@127.0.0.1:{}", broker.id, broker.controller_port))
        .collect();
    let replicas = cluster.brokers.len().min(3);
    let in_sync = replicas.saturating_sub(1).max(1);
    let (id, port, controller) = (broker.id, broker.port, broker.controller_port);
    let (voters, data) = (voters.join(","), broker.data());
    let data = data.display();
    let secure = broker.secure_ports.map(secure::listeners).unwrap_or_default();
    let secure::Listeners { listeners, protocols, settings } = secure;
    let advertised = format!("PLAINTEXT://127.0.0.1:{port}{listeners}");
    let (listens, advertised, protocols, settings) = match broker.behind {
        None => (advertised.clone(), advertised, protocols.to_owned(), settings),
        Some(Behind { port, direct }) => (
            format!("PLAINTEXT://127.0.0.1:{port},DIRECT://127.0.0.1:{direct}{listeners}"),
            format!("{advertised},DIRECT://127.0.0.1:{direct}"),
            format!("{protocols},DIRECT:PLAINTEXT"),
            format!("{settings}inter.broker.listener.name=DIRECT\n"),
        ),
    };
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners={listens},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
log.dirs={data}
# A typing error makes no topic; clients make theirs.
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.num.partitions=8
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
# Else the first member of a group waits for 3 s.
group.initial.rebalance.delay.ms=0
# A dead broker's partitions have another leader after so long.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
# As our members ask for in the older protocol: hand-overs wait for heartbeats.
group.consumer.heartbeat.interval.ms=500
group.consumer.min.heartbeat.interval.ms=500
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=6000
{settings}"
    )
}
