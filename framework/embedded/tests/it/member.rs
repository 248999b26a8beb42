//! A member of a group in a process of its own: what the child does, and how a test speaks to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, Write},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError,
    log::{CommitLog, PartitionId, Settlement, Signal, Start},
};
use aqueduct_embedded::EmbeddedLog;

use crate::{
    processes::Process,
    tools::{keyed, name, options},
};

fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn outcome<T>(result: Result<T, LogError>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |_| "ok".to_owned())
}

/// Joins group `g`, says what it is told, answers what it is asked, and does what its input says until that ends.
pub(crate) async fn child_member(directory: &Path, session: &str) {
    let session = Duration::from_millis(session.parse().unwrap());
    let log = EmbeddedLog::open(options(directory).partitions(8).session(session)).await.unwrap();
    let consumer = log.consumer("g", &[name("t")]).await.unwrap();
    let mut producer = log.transactional_producer(&format!("p{}", std::process::id())).await.unwrap();
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            drop(sender.send(line.unwrap()));
        }
    });
    say("joined");
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order.as_deref().map(|order| order.split_once(' ').unwrap()) {
                None | Some(("close", _)) => break,
                Some(("settle", at)) => {
                    let results = consumer.settle(vec![settlement(at)]).await;
                    say(&format!("settle {}", outcome(results.into_iter().next().unwrap())));
                }
                Some(("commit", at)) => {
                    let own = (consumer.group_token(), vec![settlement(at)]);
                    let record = keyed("zombie", "zombie");
                    say(&format!("commit {}", outcome(producer.commit(vec![record], Some(own)).await)));
                }
                Some(other) => panic!("{other:?} is no order"),
            },
            signal = consumer.signal() => match signal.unwrap() {
                Signal::Assigned(assignments) => {
                    let all: Vec<_> = assignments
                        .iter()
                        .map(|one| format!("{}:{}", one.partition.partition, one.generation))
                        .collect();
                    let starts = assignments.into_iter().map(|one| (one, Start::Earliest)).collect();
                    say(&format!("assign {}", outcome(consumer.assign(starts).await)));
                    say(&format!("assigned {}", all.join(" ")));
                }
                Signal::Revoking(partitions) => {
                    say(&format!("revoked {}", numbers(&partitions)));
                    consumer.revoked(&partitions);
                }
                Signal::Lost(partitions) => say(&format!("lost {}", numbers(&partitions))),
                other => panic!("{other:?} was not expected"),
            },
        }
    }
    consumer.close().await.unwrap();
    say("closed");
}

fn numbers(partitions: &[PartitionId]) -> String {
    partitions.iter().map(|one| one.partition.to_string()).collect::<Vec<_>>().join(" ")
}

/// `partition:generation`, to be settled at 0.
fn settlement(at: &str) -> Settlement {
    let (partition, generation) = at.split_once(':').unwrap();
    Settlement {
        partition: PartitionId { topic: name("t"), partition: partition.parse().unwrap() },
        generation: generation.parse().unwrap(),
        offset: 0,
        metadata: String::new(),
    }
}

/// A child that is a member.
pub(crate) struct Member {
    process: Process,
    lines: mpsc::Receiver<String>,
    /// Generations of what it owns, by partition.
    pub(crate) owns: BTreeMap<i32, i64>,
    /// What it said besides.
    pub(crate) said: Vec<String>,
}

impl Member {
    pub(crate) fn start(directory: &Path, session: Duration) -> Self {
        let mut process = Process::start(&format!("member {}", session.as_millis()), directory);
        let (sender, lines) = mpsc::channel();
        let output = std::mem::replace(&mut process.lines, empty());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process, lines, owns: BTreeMap::new(), said: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// Gives an order.
    pub(crate) fn order(&mut self, order: &str) {
        self.process.child.stdin.as_mut().unwrap().write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// Takes in what it has said; no partition is given twice under one generation, by whomever.
    pub(crate) fn listen(&mut self, given: &mut BTreeSet<(i32, i64)>) {
        while let Ok(line) = self.lines.try_recv() {
            match line.split_once(' ') {
                Some(("assigned", all)) => {
                    for one in all.split(' ') {
                        let (partition, generation) = one.split_once(':').unwrap();
                        let one = (partition.parse().unwrap(), generation.parse().unwrap());
                        assert!(given.insert(one), "{one:?} was given twice");
                        self.owns.insert(one.0, one.1);
                    }
                }
                Some(("revoked" | "lost", all)) => {
                    for one in all.split(' ') {
                        self.owns.remove(&one.parse().unwrap()).expect("it owned it");
                    }
                }
                _ => {}
            }
            self.said.push(line);
        }
    }

    /// Whether it has said a line that begins so.
    pub(crate) fn has_said(&self, line: &str) -> bool {
        self.said.iter().any(|said| said.starts_with(line))
    }

    pub(crate) fn kill(mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    /// Lets it close its consumer and end.
    pub(crate) fn close(mut self) {
        self.order("close now");
        assert!(self.process.child.wait().unwrap().success(), "the child's own assertions");
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }
}

fn empty() -> std::io::BufReader<std::process::ChildStdout> {
    // A child that says nothing: what stands where the output was.
    let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    std::io::BufReader::new(child.stdout.take().unwrap())
}

/// Listens to all members until `done`; gives how long it took.
#[track_caller]
pub(crate) fn listen_until(
    what: &str,
    limit: Duration,
    members: &mut [Member],
    given: &mut BTreeSet<(i32, i64)>,
    done: impl Fn(&[Member]) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        members.iter_mut().for_each(|member| member.listen(given));
        if done(members) {
            return begun.elapsed();
        }
        let owned: Vec<_> = members.iter().map(|member| (&member.owns, &member.said)).collect();
        assert!(begun.elapsed() < limit, "{what} did not happen within {limit:?}: {owned:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Whether `members` own all of 8 partitions, each once, evenly.
pub(crate) fn balanced(members: &[Member]) -> bool {
    let owned: BTreeSet<_> = members.iter().flat_map(|member| member.owns.keys()).collect();
    let count: usize = members.iter().map(|member| member.owns.len()).sum();
    let even =
        |member: &Member| (8 / members.len()..=8_usize.div_ceil(members.len())).contains(&member.owns.len());
    owned.len() == 8 && count == 8 && members.iter().all(even)
}
