//! Consumer groups: members, their signals, generations and settled offsets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    group::{Group, MemberId, Move},
    log::{Assignment, PartitionId, Settled, Settlement, Signal},
};
use tokio::sync::Notify;

use crate::{plan, topics::Topics};

#[derive(Debug, Default)]
struct Member {
    signals: VecDeque<Signal>,
    told: Arc<Notify>,
    /// The program that it is of.
    process: u64,
    topics: BTreeSet<TopicName>,
    /// What it has, as far as it has heard.
    heard: BTreeMap<PartitionId, i64>,
    /// Its session ran out: it joins again once it has heard so.
    expired: bool,
    /// Its client is dead, and says this.
    failed: Option<LogErrorKind>,
}

impl Member {
    fn tell(&mut self, signal: Signal) {
        self.signals.push_back(signal);
        self.told.notify_waiters();
    }

    fn hear(&mut self) -> Option<Signal> {
        let signal = self.signals.pop_front()?;
        match &signal {
            Signal::Assigned(assignments) => {
                let given = assignments.iter().map(|one| (one.partition.clone(), one.generation));
                self.heard.extend(given);
            }
            Signal::Lost(partitions) => self.forget(partitions),
            _ => {}
        }
        Some(signal)
    }

    fn forget(&mut self, partitions: &[PartitionId]) {
        self.heard.retain(|partition, _| !partitions.contains(partition));
    }
}

/// One group. It outlives its members: its settled offsets and generations are its memory.
#[derive(Debug, Default)]
pub(crate) struct GroupState {
    group: Group,
    members: BTreeMap<MemberId, Member>,
    /// Who was given each partition last; it may have left since.
    holders: BTreeMap<PartitionId, MemberId>,
    generations: BTreeMap<PartitionId, i64>,
    settled: BTreeMap<PartitionId, Settled>,
}

impl GroupState {
    /// Adds a member; what it returns is notified when there is a signal for it.
    pub(crate) fn join(
        &mut self,
        member: MemberId,
        process: u64,
        names: &[TopicName],
        topics: &Topics,
    ) -> Result<Arc<Notify>, LogError> {
        for name in names {
            topics.id(name)?;
        }
        let names: BTreeSet<_> = names.iter().cloned().collect();
        let new = Member { process, topics: names.clone(), ..Member::default() };
        let told = Arc::clone(&new.told);
        self.members.insert(member, new);
        self.take_in(member, names, topics)?;
        Ok(told)
    }

    fn take_in(
        &mut self,
        member: MemberId,
        names: BTreeSet<TopicName>,
        topics: &Topics,
    ) -> Result<(), LogError> {
        let mut partitions = Vec::new();
        for name in &names {
            partitions.extend(topics.partition_ids(name)?);
        }
        let moves = self.group.join(member, names, partitions);
        self.carry_out(moves, topics)
    }

    /// A topic has more partitions.
    pub(crate) fn grown(&mut self, topic: &TopicName, topics: &Topics) -> Result<(), LogError> {
        let readers: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.topics.contains(topic))
            .map(|(id, member)| (*id, member.topics.clone()))
            .collect();
        readers.into_iter().try_for_each(|(id, names)| self.take_in(id, names, topics))
    }

    /// Removes a member; what it owned goes to others at once.
    pub(crate) fn leave(&mut self, member: MemberId, topics: &Topics) -> Result<(), LogError> {
        let Some(gone) = self.members.remove(&member) else { return Ok(()) };
        gone.told.notify_waiters();
        let moves = self.group.leave(member);
        self.carry_out(moves, topics)
    }

    /// A member answered a revoke.
    pub(crate) fn revoked(
        &mut self,
        member: MemberId,
        partitions: &[PartitionId],
        topics: &Topics,
    ) -> Result<(), LogError> {
        if let Some(member) = self.members.get_mut(&member) {
            member.forget(partitions);
        }
        let moves = self.group.revoked(member, partitions);
        self.carry_out(moves, topics)
    }

    /// Every member loses what it has, then gets it, or what was asked of another, under a new generation.
    pub(crate) fn lose(&mut self, topics: &Topics) -> Result<(), LogError> {
        let held: Vec<_> = self.members.keys().map(|id| (*id, self.group.owned_by(*id))).collect();
        for (id, lost) in &held {
            if let Some(member) = self.members.get_mut(id)
                && !lost.is_empty()
            {
                member.tell(Signal::Lost(lost.clone()));
            }
        }
        for (id, lost) in held {
            // A revoke that was asked for needs no answer any more.
            let moves = self.group.revoked(id, &lost);
            let mut kept = self.group.owned_by(id);
            kept.retain(|partition| lost.contains(partition) && !given(&moves, partition));
            self.carry_out(moves, topics)?;
            if !kept.is_empty() {
                self.carry_out(vec![Move::Assign(id, kept)], topics)?;
            }
        }
        Ok(())
    }

    /// The members of a killed program leave.
    pub(crate) fn crash(&mut self, process: u64, topics: &Topics) {
        for id in self.members_of(process) {
            // Fails only for a topic that is gone, and topics are never removed.
            let _ = self.leave(id, topics);
        }
    }

    /// The members of a program are put out, and do not know it yet.
    pub(crate) fn expire(&mut self, process: u64, topics: &Topics) {
        for id in self.members_of(process) {
            let lost = self.put_out(id, topics);
            let Some(member) = self.members.get_mut(&id) else { continue };
            // What it was to be given or asked for is void; what it has lost before it must still hear.
            member.signals.retain(|signal| !matches!(signal, Signal::Assigned(_) | Signal::Revoking(_)));
            member.expired = true;
            if !lost.is_empty() {
                member.signals.push_back(Signal::Lost(lost));
            }
            member.told.notify_waiters();
        }
    }

    /// The clients of a program's members die.
    pub(crate) fn fail(&mut self, process: u64, kind: LogErrorKind, topics: &Topics) {
        for id in self.members_of(process) {
            self.put_out(id, topics);
            if let Some(member) = self.members.get_mut(&id) {
                member.failed = Some(kind);
                member.told.notify_waiters();
            }
        }
    }

    fn members_of(&self, process: u64) -> Vec<MemberId> {
        self.members.iter().filter(|(_, member)| member.process == process).map(|(id, _)| *id).collect()
    }

    /// Gives what a member has to others; it stays, with nothing.
    fn put_out(&mut self, id: MemberId, topics: &Topics) -> Vec<PartitionId> {
        let lost = self.group.owned_by(id);
        for partition in &lost {
            // Where nobody else takes it, its generation is still the newest.
            self.holders.remove(partition);
        }
        let moves = self.group.leave(id);
        // Fails only for a topic that is gone, and topics are never removed.
        let _ = self.carry_out(moves, topics);
        lost
    }

    /// Whether a member's client is alive.
    pub(crate) fn check_client(&self, member: MemberId) -> Result<(), LogError> {
        match self.members.get(&member).and_then(|member| member.failed) {
            None => Ok(()),
            Some(kind) => Err(plan::error(kind, &"the consumer's client")),
        }
    }

    /// The next signal of a member, or none yet.
    pub(crate) fn next_signal(
        &mut self,
        group: &str,
        id: MemberId,
        topics: &Topics,
    ) -> Result<Option<Signal>, LogError> {
        self.check_client(id)?;
        let member = self.members.get_mut(&id).ok_or_else(|| left(group))?;
        if member.signals.is_empty() && std::mem::take(&mut member.expired) {
            let names = member.topics.clone();
            self.take_in(id, names, topics)?;
        }
        Ok(self.members.get_mut(&id).and_then(Member::hear))
    }

    pub(crate) fn settled(&self, partition: &PartitionId) -> Option<&Settled> {
        self.settled.get(partition)
    }

    /// Whether `member` owns `partition` under `generation`.
    pub(crate) fn check_owner(
        &self,
        group: &str,
        member: MemberId,
        partition: &PartitionId,
        generation: i64,
    ) -> Result<(), LogError> {
        if !self.members.contains_key(&member) {
            return Err(left(group));
        }
        let current = self.generations.get(partition).copied().unwrap_or(0);
        if self.holders.get(partition) == Some(&member) && generation == current
            || aqueduct_core::planted("memory-settles-for-anybody")
        {
            return Ok(());
        }
        Err(LogError::new(
            LogErrorKind::StaleGeneration,
            format!("group {group}, {partition}: generation {generation} is over, the newest is {current}"),
        ))
    }

    /// Whether `member` owns `partition` under `generation`, as far as it has heard.
    pub(crate) fn check_heard(
        &self,
        group: &str,
        member: MemberId,
        partition: &PartitionId,
        generation: i64,
    ) -> Result<(), LogError> {
        let heard = &self.members.get(&member).ok_or_else(|| left(group))?.heard;
        if heard.get(partition) == Some(&generation) {
            return Ok(());
        }
        let message = format!("group {group}, {partition}: this member has lost generation {generation}");
        Err(LogError::new(LogErrorKind::StaleGeneration, message))
    }

    /// Whether `member` may store a settlement; changes nothing.
    pub(crate) fn check(
        &self,
        group: &str,
        member: MemberId,
        settlement: &Settlement,
        topics: &Topics,
    ) -> Result<(), LogError> {
        let Settlement { partition, generation, offset, .. } = settlement;
        self.check_owner(group, member, partition, *generation)?;
        let records = topics.partition(partition)?;
        if (0..=records.end()).contains(offset) {
            Ok(())
        } else {
            Err(records.out_of_range(partition, *offset))
        }
    }

    /// Stores a settlement that was checked; it never goes back: settlements of one owner may come out of order.
    pub(crate) fn store(&mut self, settlement: Settlement) {
        let Settlement { partition, offset, metadata, .. } = settlement;
        let late = self.settled.get(&partition).is_some_and(|settled| offset < settled.offset);
        if !late || aqueduct_core::planted("memory-settled-goes-back") {
            self.settled.insert(partition, Settled { offset, metadata });
        }
    }

    /// Wakes every member: the log was closed.
    pub(crate) fn wake_all(&self) {
        for member in self.members.values() {
            member.told.notify_waiters();
        }
    }

    fn carry_out(&mut self, moves: Vec<Move>, topics: &Topics) -> Result<(), LogError> {
        for step in moves {
            let (id, signal) = match step {
                Move::Revoke(id, partitions) => (id, Signal::Revoking(partitions)),
                Move::Assign(id, partitions) => {
                    let assignments =
                        partitions.into_iter().map(|partition| self.give(id, partition, topics));
                    (id, Signal::Assigned(assignments.collect::<Result<_, _>>()?))
                }
            };
            if let Some(member) = self.members.get_mut(&id) {
                member.tell(signal);
            }
        }
        Ok(())
    }

    fn give(
        &mut self,
        member: MemberId,
        partition: PartitionId,
        topics: &Topics,
    ) -> Result<Assignment, LogError> {
        let topic_id = topics.id(&partition.topic)?;
        let generation = self.generations.entry(partition.clone()).or_default();
        *generation += i64::from(*generation == 0 || !aqueduct_core::planted("memory-generation-not-raised"));
        let generation = *generation;
        self.holders.insert(partition.clone(), member);
        let settled = self.settled(&partition).cloned();
        Ok(Assignment { partition, topic_id, generation, settled })
    }
}

fn given(moves: &[Move], partition: &PartitionId) -> bool {
    moves.iter().any(|step| matches!(step, Move::Assign(_, partitions) if partitions.contains(partition)))
}

fn left(group: &str) -> LogError {
    LogError::new(LogErrorKind::Closed, format!("this member has left group {group}"))
}
