//! The members that live in this process: what each was told of the group in the database, and telling it the rest.
//!
//! A signal is the difference between what a member was told and what the database holds now, so a change is told once,
//! whichever process made it, and none is missed by a process that did not run for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use aqueduct_core::{
    Environment, LogError, TopicName,
    log::{PartitionId, Signal},
};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    beacon::{Beacon, boot_clock, sweep},
    command::Command,
    membership,
    reading::Job,
    shared::{Handle, Shared, Topic, lock},
};

/// How often other processes are looked at, and the least often that a heartbeat is written.
const TEND: Duration = Duration::from_millis(500);

/// Where signals come out.
pub(crate) type SignalQueue = mpsc::UnboundedReceiver<Result<Signal, LogError>>;
/// The id of a member in the database; 0 while it has none. A member that was removed joins under a new one.
pub(crate) type CurrentId = Arc<AtomicI64>;

/// Partitions that a member gives back, each with the generation under which it had it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) member: i64,
    pub(crate) partitions: Vec<(PartitionId, i64)>,
}

/// What a member was told of a partition that it owns.
#[derive(Debug, Clone, Copy)]
struct Told {
    generation: i64,
    asked: bool,
    answered: bool,
}

#[derive(Debug)]
struct Member {
    group: Arc<str>,
    topics: Vec<TopicName>,
    id: CurrentId,
    signals: mpsc::UnboundedSender<Result<Signal, LogError>>,
    told: BTreeMap<PartitionId, Told>,
    /// The change of the group up to which it was told.
    version: Option<i64>,
    writer: std_mpsc::Sender<Command>,
}

/// The members of this process.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    members: BTreeMap<u64, Member>,
    last: u64,
    beacon: Option<Beacon>,
    /// Groups whose housekeeping the writer has been asked for.
    tending: BTreeSet<Arc<str>>,
}

impl Groups {
    /// Members that wait for a signal are told that the log was closed, because their senders are dropped; other
    /// processes see that the member file is not locked.
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.beacon = None;
    }

    /// This instance can store nothing any more: its members are told so, and others take their partitions.
    pub(crate) fn fail(&mut self, error: &LogError) {
        for member in self.members.values() {
            member.tell(Err(error.clone()));
        }
        self.clear();
    }

    /// Whether nobody here needs a heartbeat or news.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What the rows of this instance's members name its file by.
    pub(crate) fn token(&self) -> Option<String> {
        self.beacon.as_ref().map(|beacon| beacon.token().to_owned())
    }

    /// Makes this instance's member file, or freshens its heartbeat. Gives its token.
    pub(crate) fn light(&mut self, log: &Path, environment: &Environment) -> io::Result<String> {
        if let Some(beacon) = &self.beacon
            && beacon.is_in_place()?
        {
            beacon.beat()?;
            return Ok(beacon.token().to_owned());
        }
        sweep(log)?;
        let beacon = Beacon::light(log, environment)?;
        let token = beacon.token().to_owned();
        self.beacon = Some(beacon);
        Ok(token)
    }

    /// A member could not join: it is over.
    pub(crate) fn not_joined(&mut self, local: u64, error: &LogError) {
        if let Some(member) = self.members.remove(&local) {
            member.tell(Err(error.clone()));
        }
    }

    /// A leave could not be stored. The row must not look alive: all members of this instance look dead, and those that
    /// are not join anew.
    pub(crate) fn not_left(&mut self) {
        self.beacon = None;
    }

    /// A member has left; after the last one nobody needs the member file.
    pub(crate) fn rest(&mut self) {
        if self.members.is_empty() {
            self.beacon = None;
        }
    }

    /// Housekeeping was done, or could not be.
    pub(crate) fn tended(&mut self, group: &str) {
        self.tending.remove(group);
    }

    /// How the members of this instance leave when it is closed.
    pub(crate) fn leave_all(&mut self) -> Vec<Command> {
        let members = std::mem::take(&mut self.members);
        members.into_iter().map(|(local, member)| member.leave(local, None)).collect()
    }
}

impl Member {
    /// The member may have gone away.
    fn tell(&self, signal: Result<Signal, LogError>) {
        drop(self.signals.send(signal));
    }

    fn join(&self, local: u64, reply: Option<oneshot::Sender<Result<(), LogError>>>) -> Command {
        let (group, topics, id) = (Arc::clone(&self.group), self.topics.clone(), Arc::clone(&self.id));
        Command::Join { local, group, topics, id, reply }
    }

    fn leave(self, local: u64, reply: Option<oneshot::Sender<Result<(), LogError>>>) -> Command {
        Command::Leave { local, group: self.group, id: self.id, reply }
    }

    /// Tells what was not told yet.
    fn catch_up(&mut self, local: u64, snapshot: &Connection) -> rusqlite::Result<()> {
        let id = self.id.load(Ordering::Acquire);
        let version = membership::version(snapshot, &self.group)?;
        if id == 0 || version == self.version {
            return Ok(());
        }
        if !membership::is_member(snapshot, id)? {
            self.removed(local);
            return Ok(());
        }
        let owned = membership::owned(snapshot, &self.group, id)?;
        self.version = version;
        let now: BTreeMap<_, _> =
            owned.iter().map(|(one, _)| (one.partition.clone(), one.generation)).collect();
        self.lose(|partition, told| now.get(partition) != Some(&told.generation));
        let (mut assigned, mut revoking) = (Vec::new(), Vec::new());
        for (assignment, asked) in owned {
            let partition = assignment.partition.clone();
            let generation = assignment.generation;
            let told = self.told.entry(partition.clone()).or_insert_with(|| {
                assigned.push(assignment);
                Told { generation, asked: false, answered: false }
            });
            if asked && !told.asked {
                told.asked = true;
                revoking.push(partition);
            }
        }
        // A partition may be both, where this process was late: first what it gets, then what is wanted of it.
        if !assigned.is_empty() {
            self.tell(Ok(Signal::Assigned(assigned)));
        }
        if !revoking.is_empty() {
            self.tell(Ok(Signal::Revoking(revoking)));
        }
        Ok(())
    }

    /// Others have removed this member, because its process did not run. It joins anew.
    fn removed(&mut self, local: u64) {
        self.lose(|_, _| true);
        self.id.store(0, Ordering::Release);
        self.version = None;
        // A writer that has ended has told everybody.
        drop(self.writer.send(self.join(local, None)));
    }

    /// Forgets some of what it owned; what it did not give back itself, it is told.
    fn lose(&mut self, lost: impl Fn(&PartitionId, &Told) -> bool) {
        let mut surprising = Vec::new();
        self.told.retain(|partition, told| {
            let gone = lost(partition, told);
            if gone && !told.answered {
                surprising.push(partition.clone());
            }
            !gone
        });
        if !surprising.is_empty() {
            self.tell(Ok(Signal::Lost(surprising)));
        }
    }
}

/// A member that is not in its group yet.
pub(crate) struct Joining {
    pub(crate) local: u64,
    pub(crate) id: CurrentId,
    pub(crate) signals: SignalQueue,
    pub(crate) joined: oneshot::Receiver<Result<(), LogError>>,
}

/// Begins to add a member that reads `topics`.
pub(crate) fn join(handle: &Handle, group: &Arc<str>, topics: &[Arc<Topic>]) -> Result<Joining, LogError> {
    let shared = &handle.shared;
    let mut groups = lock(&shared.groups);
    // Under the lock, which closing takes too.
    shared.check()?;
    groups.last += 1;
    let local = groups.last;
    let (sender, signals) = mpsc::unbounded_channel();
    let (reply, joined) = oneshot::channel();
    let id = CurrentId::default();
    let member = Member {
        group: Arc::clone(group),
        topics: topics.iter().map(|topic| topic.name().clone()).collect(),
        id: Arc::clone(&id),
        signals: sender,
        told: BTreeMap::new(),
        version: None,
        writer: handle.writer.clone(),
    };
    // Its end, if the writer has ended, is told by the reply that is dropped.
    drop(handle.writer.send(member.join(local, Some(reply))));
    groups.members.insert(local, member);
    // Wakes the reader's thread from a long pause: there is a heart to beat.
    drop(handle.reader.send(Job::Run(Box::new(|_| {}))));
    Ok(Joining { local, id, signals, joined })
}

/// Removes a member; the receiver is told when others can have what it owned.
pub(crate) fn leave(handle: &Handle, local: u64) -> Option<oneshot::Receiver<Result<(), LogError>>> {
    let (reply, left) = oneshot::channel();
    let mut groups = lock(&handle.shared.groups);
    let member = groups.members.remove(&local)?;
    // Under the lock, so that it comes after a join of the same member.
    drop(handle.writer.send(member.leave(local, Some(reply))));
    Some(left)
}

/// A member answered a revoke.
pub(crate) fn revoked(handle: &Handle, local: u64, partitions: &[PartitionId]) {
    let mut groups = lock(&handle.shared.groups);
    let Some(member) = groups.members.get_mut(&local) else { return };
    let mut answered = Vec::new();
    for partition in partitions {
        if let Some(told) = member.told.get_mut(partition)
            && told.asked
            && !told.answered
        {
            told.answered = true;
            answered.push((partition.clone(), told.generation));
        }
    }
    if !answered.is_empty() {
        let answer = Answer { member: member.id.load(Ordering::Acquire), partitions: answered };
        let group = Arc::clone(&member.group);
        // An answer that is not stored is late one session on: then the partition is taken.
        drop(handle.writer.send(Command::Answer { group, answer }));
    }
}

/// Tells every member of this process what it was not told yet.
pub(crate) fn catch_up(shared: &Shared, connection: &Connection) -> rusqlite::Result<()> {
    // The lock is taken before the snapshot: a later look is never of an earlier state.
    let mut groups = lock(&shared.groups);
    if groups.members.is_empty() {
        return Ok(());
    }
    let snapshot = connection.unchecked_transaction()?;
    for (local, member) in &mut groups.members {
        member.catch_up(*local, &snapshot)?;
    }
    Ok(())
}

/// When this process last looked after its groups.
#[derive(Debug, Default)]
pub(crate) struct Tending {
    last: Option<Duration>,
}

impl Tending {
    /// Beats, and looks whether members of other processes are gone, if it is time to.
    pub(crate) fn tend(&mut self, shared: &Shared, connection: &Connection) -> Result<(), LogError> {
        let (now, session) = (boot_clock(), shared.options.session);
        let pause = self.last.map(|last| now.saturating_sub(last));
        if pause.is_some_and(|pause| pause < TEND.min(session / 5)) || lock(&shared.groups).is_empty() {
            return Ok(());
        }
        self.last = Some(now);
        let mut groups = lock(&shared.groups);
        // None after a leave that could not be stored.
        let beat = groups.beacon.as_ref().map_or(Ok(()), Beacon::beat);
        beat.map_err(|error| {
            LogError::with_source(
                aqueduct_core::LogErrorKind::Storage,
                format!("{}: a heartbeat could not be written", shared.place.path.display()),
                error,
            )
        })?;
        // The whole machine may have slept: the others get the time to beat again.
        if pause.is_none_or(|pause| pause > session / 2) {
            return Ok(());
        }
        let token = groups.token();
        let mut due = Vec::new();
        for member in groups.members.values() {
            if groups.tending.contains(&member.group) || due.iter().any(|(group, _)| *group == member.group) {
                continue;
            }
            if membership::is_due(shared, connection, &member.group, token.as_deref())? {
                due.push((Arc::clone(&member.group), member.writer.clone()));
            }
        }
        for (group, writer) in due {
            groups.tending.insert(Arc::clone(&group));
            drop(writer.send(Command::Tend { group }));
        }
        Ok(())
    }
}
