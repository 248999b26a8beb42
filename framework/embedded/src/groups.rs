//! Consumer groups of this process. A group belongs to one process at a time, by a lock file.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    sync::{Arc, Mutex},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    group::{Group, MemberId, Move},
    log::{PartitionId, Signal},
};
use tokio::sync::mpsc;

use crate::{
    command::Command,
    error::closed,
    file::{beside, holder, lock_file, try_lock, unreachable, write_pid},
    shared::{Handle, Topic, lock},
};

/// What a member was given last: generations by partition. Work under any other is not its own.
pub(crate) type Held = Arc<Mutex<HashMap<PartitionId, i64>>>;

/// Where a member is told.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    signals: mpsc::UnboundedSender<Result<Signal, LogError>>,
    held: Held,
}

impl Mailbox {
    /// Tells the member, who may have gone away.
    pub(crate) fn tell(&self, signal: Result<Signal, LogError>) {
        if let Ok(Signal::Assigned(assignments)) = &signal {
            let mut held = lock(&self.held);
            held.extend(assignments.iter().map(|one| (one.partition.clone(), one.generation)));
        }
        drop(self.signals.send(signal));
    }
}

/// Where they come out.
pub(crate) type SignalQueue = mpsc::UnboundedReceiver<Result<Signal, LogError>>;

/// Something to tell a member, after the writer has raised the generations.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) member: Mailbox,
    pub(crate) give: Give,
}

/// What a member is told.
#[derive(Debug)]
pub(crate) enum Give {
    Assign(Vec<PartitionId>),
    Revoke(Vec<PartitionId>),
}

/// The groups that have members in this process.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Arc<str>, Members>,
    last_member: MemberId,
}

#[derive(Debug)]
struct Members {
    group: Group,
    mailboxes: HashMap<MemberId, Mailbox>,
    /// Locked while the group has members: no other process may join it.
    _lock: File,
}

impl Groups {
    /// Members that wait for a signal are told that the log was closed, because their senders are dropped.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
    }
}

/// Adds a member that reads `topics`.
pub(crate) fn join(
    handle: &Handle,
    name: &Arc<str>,
    topics: &[Arc<Topic>],
) -> Result<(MemberId, SignalQueue, Held), LogError> {
    let shared = &handle.shared;
    let mut groups = lock(&shared.groups);
    // Under the lock, which closing takes too.
    shared.check()?;
    groups.last_member += 1;
    let member = groups.last_member;
    if !groups.groups.contains_key(name) {
        let lock = take_group(handle, name)?;
        let members = Members { group: Group::new(), mailboxes: HashMap::new(), _lock: lock };
        groups.groups.insert(Arc::clone(name), members);
    }
    let Some(members) = groups.groups.get_mut(name) else { return Err(closed()) };
    let (signals, queue) = mpsc::unbounded_channel();
    let held = Held::default();
    members.mailboxes.insert(member, Mailbox { signals, held: Arc::clone(&held) });
    let names: BTreeSet<_> = topics.iter().map(|topic| topic.name().clone()).collect();
    let partitions = topics.iter().flat_map(|topic| {
        (0..topic.count()).map(|partition| PartitionId { topic: topic.name().clone(), partition })
    });
    let moves = members.group.join(member, names, partitions);
    deliver(handle, name, members, moves);
    Ok((member, queue, held))
}

/// Removes a member.
pub(crate) fn leave(handle: &Handle, name: &Arc<str>, member: MemberId) {
    let mut groups = lock(&handle.shared.groups);
    let Some(members) = groups.groups.get_mut(name) else { return };
    members.mailboxes.remove(&member);
    let moves = members.group.leave(member);
    deliver(handle, name, members, moves);
    if members.group.is_empty() {
        groups.groups.remove(name);
    }
}

/// A member answered a revoke.
pub(crate) fn revoked(handle: &Handle, name: &Arc<str>, member: MemberId, partitions: &[PartitionId]) {
    let mut groups = lock(&handle.shared.groups);
    let Some(members) = groups.groups.get_mut(name) else { return };
    let moves = members.group.revoked(member, partitions);
    deliver(handle, name, members, moves);
}

/// Through the writer, and under the groups' lock: members hear of moves in the order in which they were made.
fn deliver(handle: &Handle, name: &Arc<str>, members: &Members, moves: Vec<Move>) {
    let deliveries: Vec<_> = moves
        .into_iter()
        .filter_map(|step| {
            let (member, give) = match step {
                Move::Assign(member, partitions) => (member, Give::Assign(partitions)),
                Move::Revoke(member, partitions) => (member, Give::Revoke(partitions)),
            };
            members.mailboxes.get(&member).map(|mailbox| Delivery { member: mailbox.clone(), give })
        })
        .collect();
    if deliveries.is_empty() {
        return;
    }
    if let Err(mpsc_error) = handle.writer.send(Command::Deliver { group: Arc::clone(name), deliveries })
        && let Command::Deliver { deliveries, .. } = mpsc_error.0
    {
        for delivery in deliveries {
            delivery.member.tell(Err(closed()));
        }
    }
}

fn take_group(handle: &Handle, name: &str) -> Result<File, LogError> {
    let path = beside(&handle.shared.place.path, &format!(".group.{name}.lock"));
    let file = lock_file(&path).map_err(|error| unreachable(&path, error))?;
    if try_lock(&file).map_err(|error| unreachable(&path, error))? {
        write_pid(&file).map_err(|error| unreachable(&path, error))?;
        return Ok(file);
    }
    Err(LogError::new(
        LogErrorKind::GroupInUse,
        format!(
            "group {name} of {} is in use by {}: on the embedded log a group belongs to one process at a time",
            handle.shared.place.path.display(),
            holder(&path)
        ),
    ))
}
