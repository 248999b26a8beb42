//! Storing settled offsets: which may be, one at a time for each partition.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId, Settled, Settlement},
};
use rdkafka::{Offset as Given, TopicPartitionList, types::RDKafkaErrorCode as Code};

use super::{BEAT, Member, Owned, lock};
use crate::{
    error::{client, error, kind},
    native::{self, GroupMetadata, Native},
    reader::out_of_range,
    shared::PATIENCE,
};

/// How long a rebalance under way may keep a settlement waiting.
const REBALANCE: Duration = Duration::from_secs(5);

/// How long a settlement waits for a transaction of its partition: the next round tries again.
const BUSY: Duration = Duration::from_millis(200);

/// Settlements that are due, as the client takes them.
pub(crate) struct Due {
    pub(crate) offsets: TopicPartitionList,
    pub(crate) proof: Arc<GroupMetadata>,
    /// Partition, generation and offset, in the order of `offsets`.
    pub(crate) moved: Vec<(PartitionId, i64, Offset)>,
}

impl Member {
    /// The group has moved on, and this process, which may not have lost anything by it, has not heard how: no other
    /// owner is proved by that.
    pub(crate) fn unheard(&self, refused: LogError, owns: impl FnOnce() -> bool) -> LogError {
        let hears = aqueduct_core::planted("kafka-unheard-proves-an-owner");
        if refused.kind() == LogErrorKind::StaleGeneration && owns() && !hears {
            let message = format!("group {} is being rebalanced, and no end of it was heard of", self.group);
            return LogError::with_source(LogErrorKind::Unreachable, message, refused);
        }
        refused
    }

    /// Where the partition stands with a settlement, and whether that moves it: one that is late does not. An error where it
    /// may not be stored. Waits.
    fn judge(&self, settlement: &Settlement) -> Result<(Offset, bool), LogError> {
        let Settlement { partition, generation, offset, .. } = settlement;
        let seen = self.seen(partition, *generation)?;
        if *offset < 0 {
            return Err(out_of_range(&self.shared, partition, *offset));
        }
        if *offset > seen.load(Ordering::Relaxed) {
            let (_, end) = self.shared.range(&partition.topic, partition.partition)?;
            seen.fetch_max(end, Ordering::Relaxed);
            if *offset > end && !aqueduct_core::planted("kafka-settles-past-the-end") {
                return Err(out_of_range(&self.shared, partition, *offset));
            }
        }
        let state = self.state();
        let late =
            |owned: &Owned| *offset <= owned.settled && !aqueduct_core::planted("kafka-settled-goes-back");
        let owned = state.given(partition, *generation).ok_or_else(|| self.stale(partition, *generation))?;
        Ok(if late(owned) { (owned.settled, false) } else { (*offset, true) })
    }

    /// Stores once more what was settled in partitions that were given: the group's broker takes it from a member alone. A
    /// process that slept through the loss of what it was given has not heard of it yet. Nothing is proved where nothing was
    /// ever settled. Waits.
    pub(crate) fn prove(
        &self,
        given: &[(PartitionId, i64)],
        settled: &[Option<Settled>],
    ) -> Result<(), LogError> {
        let mut offsets = TopicPartitionList::new();
        for ((partition, generation), settled) in given.iter().zip(settled) {
            if !self.owns(partition, *generation) {
                continue;
            }
            let Some(Settled { offset, metadata }) = settled else { continue };
            let wire = self.shared.wire(partition.topic.as_str());
            let mut element = offsets.add_partition(&wire, partition.partition);
            element.set_metadata(metadata);
            let set = element.set_offset(Given::Offset(*offset));
            set.map_err(|failed| client("cannot prove the membership", failed))?;
        }
        if offsets.count() == 0 || aqueduct_core::planted("kafka-given-without-proof") {
            return Ok(());
        }
        let Some(asking) = self.client() else { return Err(self.left_it()) };
        let asking: Arc<dyn Native> = asking;
        let codes = native::commit(asking, &offsets, PATIENCE).unwrap_or_else(|code| vec![code]);
        let Some(code) = codes.into_iter().find(|code| *code != Code::NoError) else { return Ok(()) };
        let tried = format!("cannot prove the membership of group {}", self.group);
        let refused = error(&tried, code, &code.to_string());
        let owns = || given.iter().any(|(partition, generation)| self.owns(partition, *generation));
        match self.unheard(refused, owns) {
            // It has heard meanwhile.
            error if error.kind() == LogErrorKind::StaleGeneration => Ok(()),
            error => Err(error),
        }
    }

    /// What of the settlements is due. Each that may not be stored has its error. Waits.
    ///
    /// With records in the same transaction (`proving`) one that moves nothing is due too: the group's broker compares
    /// generations only where it is given an offset, and a zombie's records would be written.
    pub(crate) fn due(
        &self,
        settlements: &[Settlement],
        proving: bool,
    ) -> (Option<Due>, Vec<Result<(), LogError>>) {
        let proving = proving && !aqueduct_core::planted("kafka-unmoved-proves-nothing");
        // Before the judgements: an older proof is refused, and all is judged again; a newer one could stand for a partition
        // that went away in between.
        let proof = self.proof();
        let mut offsets = TopicPartitionList::with_capacity(settlements.len());
        let (mut moved, mut results) = (Vec::new(), Vec::with_capacity(settlements.len()));
        for settlement in settlements {
            let due = self.check().and_then(|()| self.judge(settlement));
            if let Ok((offset, moves)) = due
                && (moves || proving)
            {
                let PartitionId { topic, partition } = &settlement.partition;
                let mut element = offsets.add_partition(&self.shared.wire(topic.as_str()), *partition);
                element.set_metadata(&settlement.metadata);
                if let Err(error) = element.set_offset(Given::Offset(offset)) {
                    results.push(Err(client("cannot settle", error)));
                    continue;
                }
                moved.push((settlement.partition.clone(), settlement.generation, offset));
            }
            results.push(due.map(drop));
        }
        if moved.is_empty() {
            return (None, results);
        }
        let Some(proof) = proof else {
            return (None, settlements.iter().map(|_| Err(self.left_it())).collect());
        };
        (Some(Due { offsets, proof, moved }), results)
    }

    /// What this process can prove. In the newer protocol the number of a member's generation moves without a word to it;
    /// a member that was put out gets no new number before it has answered that all was lost, so the newest one proves
    /// what `owned` says too.
    fn proof(&self) -> Option<Arc<GroupMetadata>> {
        if aqueduct_core::planted("kafka-proves-nothing") {
            return GroupMetadata::nobodys(&self.wire).map(Arc::new);
        }
        if self.shared.options.coordinated()
            && let Some(client) = self.client()
        {
            return GroupMetadata::of(&*client).map(Arc::new);
        }
        self.state().proof.clone()
    }

    /// Notes what was stored.
    pub(crate) fn stored<'a>(&self, moved: impl IntoIterator<Item = &'a (PartitionId, i64, Offset)>) {
        let mut state = self.state();
        for (partition, generation, offset) in moved {
            if let Some(owned) =
                state.owned.get_mut(partition).filter(|owned| owned.generation == *generation)
            {
                owned.settled = owned.settled.max(*offset);
            }
        }
    }

    /// Stores settled offsets, each with its own result. Waits.
    pub(crate) fn settle(&self, settlements: &[Settlement]) -> Vec<Result<(), LogError>> {
        let mut results: Vec<_> = settlements.iter().map(|_| Ok(())).collect();
        let (mut held, mut free) = (Vec::new(), Vec::new());
        let until = Instant::now() + BUSY;
        for (index, Settlement { partition, .. }) in settlements.iter().enumerate() {
            if held.iter().any(|slot: &Storing<'_>| slot.partition == *partition) {
                free.push(index);
                continue;
            }
            match self.store(partition, Some(until)) {
                Some(slot) => {
                    held.push(slot);
                    free.push(index);
                }
                None => results[index] = Err(self.busy(partition)),
            }
        }
        let due: Vec<_> = free.iter().map(|index| settlements[*index].clone()).collect();
        for (index, result) in free.into_iter().zip(self.settle_held(&due)) {
            results[index] = result;
        }
        results
    }

    /// Takes the one place to store a partition's offset; none where it is not free by then.
    pub(crate) fn store(&self, partition: &PartitionId, until: Option<Instant>) -> Option<Storing<'_>> {
        let mut partition = partition.clone();
        if aqueduct_core::planted("kafka-one-turn-for-all") {
            partition.partition = 0;
        }
        self.place(partition, until)
    }

    fn place(&self, partition: PartitionId, until: Option<Instant>) -> Option<Storing<'_>> {
        let mut storing = lock(&self.storing);
        while !storing.insert(partition.clone()) {
            let left = until.map_or(BUSY, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let waited = self.freed.wait_timeout(storing, left);
            storing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Storing { member: self, partition })
    }

    /// Takes the places to store the offsets of several partitions.
    ///
    /// # Errors
    /// `Held`: a transaction of this process is settling one of them.
    pub(crate) fn hold<'a>(
        &self,
        partitions: impl Iterator<Item = &'a PartitionId>,
    ) -> Result<Vec<Storing<'_>>, LogError> {
        let until = Instant::now() + BUSY;
        partitions
            .map(|partition| self.place(partition.clone(), Some(until)).ok_or_else(|| self.busy(partition)))
            .collect()
    }

    /// Answers a revoke, once nothing of the partitions is being stored: a commit that is late would be sent under the next
    /// generation, over what their next owner has stored.
    pub(crate) fn give_back(self: &Arc<Self>, partitions: &[PartitionId]) {
        let at_once: Option<Vec<_>> =
            partitions.iter().map(|partition| self.place(partition.clone(), Some(Instant::now()))).collect();
        if at_once.is_some() {
            self.revoked(partitions);
            return;
        }
        drop(at_once);
        let (member, late) = (Arc::clone(self), partitions.to_vec());
        let answer = move || {
            let until = Instant::now() + PATIENCE * 2;
            let mut held = Vec::with_capacity(late.len());
            for partition in &late {
                // What is stored for longer is refused by then: the group waits no longer for this member.
                held.extend(member.place(partition.clone(), Some(until)));
            }
            member.revoked(&late);
        };
        if let Err(error) = thread::Builder::new().name("kafka-give-back".to_owned()).spawn(answer) {
            tracing::warn!(group = self.group, %error, "a thread could not be started");
            self.revoked(partitions);
        }
    }

    fn busy(&self, partition: &PartitionId) -> LogError {
        let message = format!("{partition} of group {} is being settled already", self.group);
        LogError::new(LogErrorKind::Held, message)
    }

    fn settle_held(&self, settlements: &[Settlement]) -> Vec<Result<(), LogError>> {
        let until = Instant::now() + REBALANCE;
        loop {
            let (due, mut results) = self.due(settlements, false);
            let Some(due) = due else { return results };
            let codes = match self.client() {
                Some(client) => {
                    let client: Arc<dyn Native> = client;
                    native::commit(client, &due.offsets, PATIENCE)
                }
                None => Err(Code::BrokerDestroy),
            };
            let codes = codes.unwrap_or_else(|code| vec![code; due.moved.len()]);
            // The group moves on: once this process has heard of it, the judgement is another or the commit goes through.
            let again = codes.iter().any(|code| kind(*code) == LogErrorKind::StaleGeneration);
            if again && Instant::now() < until {
                thread::sleep(BEAT);
                continue;
            }
            for ((partition, generation, offset), code) in due.moved.iter().zip(codes) {
                let at = settlements.iter().position(|one| {
                    one.partition == *partition && one.generation == *generation && one.offset == *offset
                });
                if code == Code::NoError {
                    self.stored([&(partition.clone(), *generation, *offset)]);
                } else if let Some(at) = at {
                    let tried = format!("cannot settle {partition} of group {} at {offset}", self.group);
                    let refused = error(&tried, code, &code.to_string());
                    results[at] = Err(self.unheard(refused, || self.owns(partition, *generation)));
                }
            }
            return results;
        }
    }
}

/// The one place to store a partition's offset. Dropped, it is free.
pub(crate) struct Storing<'a> {
    member: &'a Member,
    partition: PartitionId,
}

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        lock(&self.member.storing).remove(&self.partition);
        self.member.freed.notify_all();
    }
}
