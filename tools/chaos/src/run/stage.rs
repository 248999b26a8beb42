//! Where a scenario plays: its folder, its processes, the observer and the judge.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use checker::{Observation, Once, Report, Rules, Subscription};
use rustix::process::{Pid, Signal, kill_process};

use super::{cluster::Cluster, play::ROLES};
use crate::{
    consume::{Role, WINDOW},
    event::{ECHOES, MIRRORS, MOVES},
    sink::Sink,
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The folder of a scenario, and who writes down what is done in it.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    /// The observations.
    pub(crate) seen: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) database: PathBuf,
    /// While it exists, what fails for ever does not.
    pub(crate) healed: PathBuf,
    pub(crate) sink: Sink,
    /// Who consumes.
    pub(crate) roles: &'static [Role],
    /// The cluster that is the log, where it is not a file.
    pub(crate) cluster: Option<Cluster>,
    /// Drain deadline of consumers, in milliseconds.
    pub(crate) drain: u64,
    faults: u64,
}

impl Stage {
    /// Makes the folder anew.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        if dir.exists() {
            let ours = dir.join("seen").exists() || fs::read_dir(&dir)?.next().is_none();
            ensure!(ours, "{} is not a folder of ours; it is left alone", dir.display());
            fs::remove_dir_all(&dir)?;
        }
        let seen = dir.join("seen");
        fs::create_dir_all(&seen).with_context(|| format!("cannot make {}", seen.display()))?;
        let sink = Sink::file(&seen.join("chaos.jsonl"), "chaos")?;
        let (log, database, healed) = (dir.join("log.db"), dir.join("ledger.db"), dir.join("healed"));
        let (roles, cluster) = (&ROLES, None);
        Ok(Self { dir, seen, log, database, healed, sink, roles, cluster, drain: 1_000, faults: 0 })
    }

    /// Lets `cluster` be the log.
    pub(crate) fn on(mut self, cluster: Cluster) -> Self {
        self.cluster = Some(cluster);
        // The default of a service: what leaves waits for brokers.
        self.drain = 4_000;
        self
    }

    /// The log's URL with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        match &self.cluster {
            Some(cluster) => format!("kafka://{}?{parameters}", cluster.addresses(|broker| broker.port)),
            None => format!("embedded:{}?{parameters}", self.log.display()),
        }
    }

    /// A fault begins.
    pub(crate) fn fault(&mut self, kind: &str, target: &str) -> u64 {
        self.faults += 1;
        let (fault, kind, target) = (self.faults, kind.to_owned(), target.to_owned());
        self.sink.see(Observation::Fault { fault, kind, target });
        self.faults
    }

    pub(crate) fn healed(&self, fault: u64) {
        self.sink.see(Observation::Healed { fault });
    }

    /// One of our own processes.
    pub(crate) fn command(&self, words: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words.split_whitespace());
        Ok(command)
    }

    /// Starts `command` as `by`; what it prints goes to a file.
    pub(crate) fn start(&self, mut command: Command, by: &str) -> anyhow::Result<Process> {
        let printed = self.dir.join(format!("{by}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&printed)?)
            .spawn()
            .with_context(|| format!("cannot start {by}"))?;
        Ok(Process { child, by: by.to_owned(), printed })
    }

    /// The observer of the log, which is to do this.
    fn observe(&self, what: &str) -> anyhow::Result<Command> {
        if let Some(cluster) = &self.cluster {
            return observer(cluster, self.roles, what);
        }
        let mut command = self.checker()?;
        command.arg(what).arg(&self.log);
        Ok(command)
    }

    /// Starts the observer.
    pub(crate) fn watch(&self) -> anyhow::Result<Watcher> {
        let mut command = self.observe("watch")?;
        command.arg("--out").arg(self.seen.join("samples.jsonl")).stdin(Stdio::piped());
        let mut child = command.spawn().context("cannot start the observer")?;
        let stdin = child.stdin.take();
        Ok(Watcher { child, stdin })
    }

    /// The checker's binary lies beside ours.
    pub(crate) fn checker(&self) -> anyhow::Result<Command> {
        Ok(Command::new(std::env::current_exe()?.with_file_name("checker")))
    }

    /// Reads the log and the database to their ends.
    pub(crate) fn read(&self) -> anyhow::Result<()> {
        let mut command = self.observe("read")?;
        if self.roles.contains(&Role::Mirror) {
            command.args(["--effects", MIRRORS]);
        }
        let status = command.arg("--out").arg(self.seen.join("read.jsonl")).status()?;
        ensure!(status.success(), "the observer could not read the log: {status}");
        if self.database.exists() {
            let mut command = self.checker()?;
            command.arg("effects").arg(&self.database).arg("--out").arg(self.seen.join("effects.jsonl"));
            let status = command.status()?;
            ensure!(status.success(), "the checker could not read the database: {status}");
        }
        Ok(())
    }

    /// Lets the checker decide over what has been seen.
    pub(crate) fn judge(&self, rules: &Rules) -> anyhow::Result<Report> {
        let (by, report) = (self.dir.join("rules.json"), self.dir.join("report.json"));
        fs::write(&by, serde_json::to_vec_pretty(rules)?)?;
        let mut command = self.checker()?;
        command.arg("check").arg(&self.seen).arg("--rules").arg(by).arg("--json").arg(&report);
        let output = command.output()?;
        let report =
            fs::read(&report).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let report: Report = serde_json::from_slice(&report)?;
        // Its word counts, not our reading of it.
        ensure!(report.passed() == output.status.success(), "the checker ended with {}", output.status);
        Ok(report)
    }

    /// What waits for the groups and in the outbox, as the observer counts it.
    pub(crate) fn lag(&self, roles: &[Role]) -> anyhow::Result<i64> {
        let mut command = match &self.cluster {
            Some(cluster) => observer(cluster, roles, "lag")?,
            None => {
                let mut command = self.checker()?;
                command.arg("lag").arg(&self.log).args(reads(roles));
                command
            }
        };
        let mut lag = printed(&mut command)?;
        if roles.contains(&Role::Ledger) {
            lag += printed(self.checker()?.arg("outbox").arg(&self.database))?;
        }
        Ok(lag)
    }

    /// How many partitions of the cluster lack a replica.
    pub(crate) fn behind(&self) -> anyhow::Result<i64> {
        let cluster = self.cluster.as_ref().context("the log is no cluster")?;
        printed(&mut observer(cluster, &[], "behind")?)
    }

    /// Waits until nothing waits any more: the liveness that must follow healing. So long without less to do is too long; how
    /// much had gathered until then is a question of the machine.
    pub(crate) fn catch_up(&self, roles: &[Role], within: Duration) -> anyhow::Result<Result<Duration, i64>> {
        let started = Instant::now();
        let (mut least, mut since) = (i64::MAX, started);
        let mut quiet = 0;
        loop {
            let lag = self.lag(roles)?;
            if lag < least {
                (least, since) = (lag, Instant::now());
            }
            quiet = if lag == 0 { quiet + 1 } else { 0 };
            // An echo may still be on its way when all that is counted has gone by.
            if quiet == 3 {
                return Ok(Ok(started.elapsed()));
            }
            if since.elapsed() > within {
                return Ok(Err(lag));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The observer of a cluster. Its binary lies beside ours.
fn observer(cluster: &Cluster, roles: &[Role], what: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("kafka-observer"));
    command.arg(cluster.addresses(|broker| broker.direct)).args(reads(roles)).arg(what);
    Ok(command)
}

/// Which groups read which topics, as options.
fn reads(roles: &[Role]) -> Vec<String> {
    let each = roles.iter().flat_map(|role| role.topics().iter().map(|topic| (role.group(), topic)));
    each.map(|(group, topic)| format!("--reads={group}={topic}")).collect()
}

/// The number that a command prints.
fn printed(command: &mut Command) -> anyhow::Result<i64> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The rules for the groups of these roles.
pub(crate) fn rules(roles: &[Role]) -> Rules {
    let subscriptions = roles.iter().map(|role| Subscription {
        group: role.group().to_owned(),
        topics: role.topics().iter().map(|topic| (*topic).to_owned()).collect(),
        effects: match role {
            Role::Ledger => Some(Once::Event),
            Role::Mirror => Some(Once::Record),
            Role::Audit => None,
        },
        window: u64::try_from(WINDOW).unwrap_or(u64::MAX),
    });
    Rules {
        subscriptions: subscriptions.collect(),
        topics: [MOVES, ECHOES, MIRRORS].map(str::to_owned).into(),
        ..Rules::default()
    }
}

/// A process under test. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    pub(crate) by: String,
    printed: PathBuf,
}

impl Process {
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.by))
    }

    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end.
    pub(crate) fn ask(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        // On Unix this is SIGKILL.
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if started.elapsed() > within {
                bail!("{} did not end within {within:?}: {}", self.by, self.printed()?);
            }
            thread::sleep(POLL);
        }
    }

    pub(crate) fn printed(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.printed)?)
    }

    /// How many deliveries it said it left unfinished.
    pub(crate) fn unfinished(&self) -> anyhow::Result<u64> {
        let mut unfinished = 0;
        for line in self.printed()?.lines() {
            // What other parts of the process print is no JSON.
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            unfinished += line["fields"]["drained.unfinished"].as_u64().unwrap_or(0);
        }
        Ok(unfinished)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to kill.
        if let Ok(None) = self.child.try_wait() {
            let killed = self.child.kill().and_then(|()| self.child.wait());
            if let Err(error) = killed {
                eprintln!("{} may still run: {error}", self.by);
            }
        }
    }
}

/// The observer. It samples until it is stopped.
pub(crate) struct Watcher {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Watcher {
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the observer failed: {status}");
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stdin = None;
        if let Err(error) = self.child.wait() {
            eprintln!("the observer may still run: {error}");
        }
    }
}
