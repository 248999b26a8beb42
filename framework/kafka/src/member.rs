//! A member of a group: a client that does nothing but belong to it. It is given partitions and reads none of them; that
//! is done by clients without a group (`fetcher`), so a rebalance stops nobody's reading.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId, Settlement},
};
use rdkafka::{
    ClientContext, Offset as Given, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::{RDKafkaErrorCode as Code, RDKafkaRespErr},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    context::log,
    error::{client, error, kind},
    native::{self, GroupMetadata, Native},
    reader::out_of_range,
    shared::{PATIENCE, Shared},
};

/// How soon an answer to a revoke, or a leave, is noticed.
const BEAT: Duration = Duration::from_millis(50);

/// How long a rebalance under way may keep a settlement waiting.
const REBALANCE: Duration = Duration::from_secs(5);

/// How long a settlement waits for a transaction of its partition: the next round tries again.
const BUSY: Duration = Duration::from_millis(200);

/// What the client tells, in order.
#[derive(Debug)]
pub(crate) enum Told {
    Assigned(Vec<(PartitionId, i64)>),
    Revoking(Vec<PartitionId>),
    Lost(Vec<PartitionId>),
    Failed(LogError),
}

type Client = BaseConsumer<Rebalances>;

pub(crate) struct Member {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: String,
    /// The group's name in the cluster.
    pub(crate) wire: String,
    state: Mutex<State>,
    /// The partitions whose offset is being stored, one commit at a time for each, so that an older one is not stored
    /// after a newer. A transaction may wait for an outage: the other partitions are settled meanwhile.
    storing: Mutex<HashSet<PartitionId>>,
    freed: Condvar,
    client: Mutex<Option<Arc<Client>>>,
    told: mpsc::UnboundedSender<Told>,
    /// It shall leave.
    pub(crate) leaving: CancellationToken,
    /// It has left.
    pub(crate) left: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Of the newest rebalance that this process has heard of: what it proves is what `owned` says.
    proof: Option<Arc<GroupMetadata>>,
    owned: HashMap<PartitionId, Owned>,
    /// What the group asked for and was not answered.
    asked: HashSet<PartitionId>,
    /// Whether the client waits for that answer.
    waits: bool,
}

struct Owned {
    generation: i64,
    settled: Offset,
    /// How far the partition is known to reach.
    seen: Arc<AtomicI64>,
}

/// Settlements that are due, as the client takes them.
pub(crate) struct Due {
    pub(crate) offsets: TopicPartitionList,
    pub(crate) proof: Arc<GroupMetadata>,
    /// Partition, generation and offset, in the order of `offsets`.
    pub(crate) moved: Vec<(PartitionId, i64, Offset)>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("group", &self.group).finish_non_exhaustive()
    }
}

/// What the client of a member is told by its group.
struct Rebalances(Arc<Member>);

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(group = self.0.group, %error, reason, "a member of a group met an error");
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, client: &Client, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let member = &self.0;
        let partitions: Vec<_> = list
            .elements()
            .iter()
            .filter_map(|element| {
                let topic = member.shared.unwire(element.topic())?;
                Some(PartitionId { topic, partition: element.partition() })
            })
            .collect();
        // The answers name nothing: nothing was taken into the client, which only belongs to the group. With KIP-848 too: what
        // it tells the broker that it has is what it was given and has answered.
        let nothing = TopicPartitionList::new();
        let answered = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                member.on_assigned(client, partitions);
                client.incremental_assign(&nothing)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                if member.on_revoked(client, partitions, client.assignment_lost()) {
                    // Answered when the last of them was given back.
                    return;
                }
                client.incremental_unassign(&nothing)
            }
            _ => client.incremental_unassign(&nothing),
        };
        if let Err(error) = answered {
            tracing::warn!(group = member.group, %error, "a rebalance could not be answered");
        }
    }
}

impl Member {
    /// Joins. Waits for the topics to be found, not for the group.
    pub(crate) fn join(
        shared: &Arc<Shared>,
        group: &str,
        topics: &[aqueduct_core::TopicName],
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Told>), LogError> {
        let wire = shared.checked("group", group)?;
        if topics.is_empty() {
            return Err(crate::error::configuration(format!("group {group} names no topic to read")));
        }
        for topic in topics {
            shared.require(topic)?;
        }
        let (told, hears) = mpsc::unbounded_channel();
        let member = Arc::new(Self {
            shared: Arc::clone(shared),
            group: group.to_owned(),
            wire,
            state: Mutex::default(),
            storing: Mutex::default(),
            freed: Condvar::new(),
            client: Mutex::default(),
            told,
            leaving: CancellationToken::new(),
            left: CancellationToken::new(),
        });
        let tried = || format!("cannot join group {group}");
        let config = shared.options.member(&member.wire);
        let made = config.create_with_context(Rebalances(Arc::clone(&member)));
        let made: Arc<Client> = Arc::new(made.map_err(|error| client(&tried(), error))?);
        let names: Vec<_> = topics.iter().map(|topic| shared.wire(topic.as_str())).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        made.subscribe(&names).map_err(|error| client(&tried(), error))?;
        *lock(&member.client) = Some(made);
        let serving = Arc::clone(&member);
        let spawned = thread::Builder::new().name("kafka-group".to_owned()).spawn(move || serving.serve());
        if let Err(error) = spawned {
            lock(&member.client).take();
            return Err(LogError::with_source(LogErrorKind::Unreachable, tried(), error));
        }
        let mut members = lock(&shared.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
        Ok((member, hears))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn client(&self) -> Option<Arc<Client>> {
        lock(&self.client).clone()
    }

    /// The life of the client: nothing that a handler does stops it.
    fn serve(&self) {
        let Some(client) = self.client() else { return };
        while !self.leaving.is_cancelled() {
            match client.poll(BEAT) {
                None => {}
                Some(Ok(_)) => {
                    tracing::warn!(group = self.group, "a member that reads nothing was given a record")
                }
                Some(Err(error)) => self.on_error(error),
            }
            self.answer(&client);
        }
        self.state().asked.clear();
        self.answer(&client);
        lock(&self.client).take();
        // A commit under way ends first; the last one to hold the client waits for the group's coordinator.
        let until = Instant::now() + PATIENCE;
        while Arc::strong_count(&client) > 1 && Instant::now() < until {
            thread::sleep(BEAT);
        }
        drop(client);
        self.left.cancel();
    }

    fn on_error(&self, error: KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let grave = matches!(kind(code), LogErrorKind::Configuration | LogErrorKind::GroupInUse);
        if fatal || grave {
            self.tell(Told::Failed(client(&format!("group {}", self.group), error)));
        } else {
            tracing::debug!(group = self.group, %error, "a member of a group met an error");
        }
    }

    fn on_assigned(&self, client: &Client, partitions: Vec<PartitionId>) {
        let mut state = self.state();
        let Some(proof) = GroupMetadata::of(client) else {
            // The answer to the rebalance takes the partitions: nobody would read them, and nobody would know.
            let message = format!("group {} was given partitions and has no generation", self.group);
            self.tell(Told::Failed(LogError::new(LogErrorKind::Unreachable, message)));
            return;
        };
        let generation = i64::from(proof.generation());
        state.proof = Some(Arc::new(proof));
        if partitions.is_empty() || self.leaving.is_cancelled() {
            return;
        }
        for partition in &partitions {
            let owned = Owned { generation, settled: -1, seen: Arc::default() };
            state.owned.insert(partition.clone(), owned);
        }
        let given = partitions.into_iter().map(|partition| (partition, generation)).collect();
        self.tell(Told::Assigned(given));
    }

    fn tell(&self, told: Told) {
        // Fails only where nobody listens any more: the consumer is gone, and with it whoever had to hear this.
        let _ = self.told.send(told);
    }

    /// Whether the answer has to wait for the one who owns the partitions.
    fn on_revoked(&self, client: &Client, mut partitions: Vec<PartitionId>, lost: bool) -> bool {
        let mut state = self.state();
        partitions.retain(|partition| state.owned.contains_key(partition));
        if lost || self.leaving.is_cancelled() {
            for partition in &partitions {
                state.owned.remove(partition);
            }
            if !partitions.is_empty() {
                self.tell(Told::Lost(partitions));
            }
            return false;
        }
        if let Some(proof) = GroupMetadata::of(client) {
            state.proof = Some(Arc::new(proof));
        }
        if partitions.is_empty() {
            return false;
        }
        state.asked.extend(partitions.iter().cloned());
        state.waits = true;
        self.tell(Told::Revoking(partitions));
        true
    }

    /// Gives back what was asked for.
    pub(crate) fn revoked(&self, partitions: &[PartitionId]) {
        let mut state = self.state();
        for partition in partitions {
            if state.asked.remove(partition) {
                state.owned.remove(partition);
            }
        }
    }

    /// Answers a revoke once all of it was given back, or was lost meanwhile.
    fn answer(&self, client: &Client) {
        let mut state = self.state();
        if !state.waits {
            return;
        }
        if !state.asked.is_empty() {
            if !client.assignment_lost() {
                return;
            }
            let lost: Vec<_> = state.asked.drain().collect();
            for partition in &lost {
                state.owned.remove(partition);
            }
            self.tell(Told::Lost(lost));
        }
        state.waits = false;
        drop(state);
        if let Err(error) = client.incremental_unassign(&TopicPartitionList::new()) {
            tracing::warn!(group = self.group, %error, "a revoke could not be answered");
        }
    }

    /// Whether it is still given this partition under this generation.
    pub(crate) fn owns(&self, partition: &PartitionId, generation: i64) -> bool {
        self.state().owned.get(partition).is_some_and(|owned| owned.generation == generation)
    }

    /// Where the group stands. Waits.
    pub(crate) fn settled(
        &self,
        partitions: &[(aqueduct_core::TopicName, i32)],
    ) -> Result<Vec<Option<Offset>>, LogError> {
        let Some(client) = self.client() else { return Err(self.left_it()) };
        self.shared.settled(&client, &self.group, partitions)
    }

    /// Notes where a partition that was given stands in the group.
    pub(crate) fn stands_at(&self, partition: &PartitionId, settled: Option<Offset>) {
        if let Some(owned) = self.state().owned.get_mut(partition) {
            owned.settled = owned.settled.max(settled.unwrap_or(-1));
        }
    }

    /// What a reader of an owned partition tells how far it came.
    pub(crate) fn seen(&self, partition: &PartitionId, generation: i64) -> Result<Arc<AtomicI64>, LogError> {
        let state = self.state();
        match state.owned.get(partition).filter(|owned| owned.generation == generation) {
            Some(owned) => Ok(Arc::clone(&owned.seen)),
            None => Err(self.stale(partition, generation)),
        }
    }

    fn stale(&self, partition: &PartitionId, generation: i64) -> LogError {
        LogError::new(
            LogErrorKind::StaleGeneration,
            format!("{partition} is not this member's of group {} under generation {generation}", self.group),
        )
    }

    /// The group has moved on, and this process, which may not have lost anything by it, has not heard how: no other
    /// owner is proved by that.
    pub(crate) fn unheard(&self, refused: LogError, owns: impl FnOnce() -> bool) -> LogError {
        if refused.kind() == LogErrorKind::StaleGeneration && owns() {
            let message = format!("group {} is being rebalanced, and no end of it was heard of", self.group);
            return LogError::with_source(LogErrorKind::Unreachable, message, refused);
        }
        refused
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.shared.check()?;
        if self.leaving.is_cancelled() { Err(self.left_it()) } else { Ok(()) }
    }

    fn left_it(&self) -> LogError {
        LogError::new(LogErrorKind::Closed, format!("this consumer of group {} was closed", self.group))
    }

    /// Whether a settlement may be stored; an error where not, no where it is late. Waits.
    fn judge(&self, settlement: &Settlement) -> Result<bool, LogError> {
        let Settlement { partition, generation, offset, .. } = settlement;
        let seen = self.seen(partition, *generation)?;
        if *offset < 0 {
            return Err(out_of_range(&self.shared, partition, *offset));
        }
        if *offset > seen.load(Ordering::Relaxed) {
            let (_, end) = self.shared.range(&partition.topic, partition.partition)?;
            seen.fetch_max(end, Ordering::Relaxed);
            if *offset > end {
                return Err(out_of_range(&self.shared, partition, *offset));
            }
        }
        let state = self.state();
        let owned = state.owned.get(partition).filter(|owned| owned.generation == *generation);
        owned.map(|owned| *offset > owned.settled).ok_or_else(|| self.stale(partition, *generation))
    }

    /// What of the settlements is due. Each that may not be stored has its error. Waits.
    pub(crate) fn due(&self, settlements: &[Settlement]) -> (Option<Due>, Vec<Result<(), LogError>>) {
        let mut offsets = TopicPartitionList::with_capacity(settlements.len());
        let (mut moved, mut results) = (Vec::new(), Vec::with_capacity(settlements.len()));
        for settlement in settlements {
            let due = self.check().and_then(|()| self.judge(settlement));
            if let Ok(true) = due {
                let PartitionId { topic, partition } = &settlement.partition;
                let mut element = offsets.add_partition(&self.shared.wire(topic.as_str()), *partition);
                element.set_metadata(&settlement.metadata);
                if let Err(error) = element.set_offset(Given::Offset(settlement.offset)) {
                    results.push(Err(client("cannot settle", error)));
                    continue;
                }
                moved.push((settlement.partition.clone(), settlement.generation, settlement.offset));
            }
            results.push(due.map(drop));
        }
        // After the judgements: what it proves is no older than what they saw.
        let proof = self.proof();
        let due = proof.filter(|_| !moved.is_empty()).map(|proof| Due { offsets, proof, moved });
        (due, results)
    }

    /// What this process can prove. In the newer protocol the number of a member's generation moves without a word to it;
    /// a member that was put out gets no new number before it has answered that all was lost, so the newest one proves
    /// what `owned` says too.
    fn proof(&self) -> Option<Arc<GroupMetadata>> {
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
        let mut storing = lock(&self.storing);
        while !storing.insert(partition.clone()) {
            let left = until.map_or(BUSY, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let waited = self.freed.wait_timeout(storing, left);
            storing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Storing { member: self, partition: partition.clone() })
    }

    fn busy(&self, partition: &PartitionId) -> LogError {
        let message = format!("a transaction of group {} is settling {partition}", self.group);
        LogError::new(LogErrorKind::Unreachable, message)
    }

    fn settle_held(&self, settlements: &[Settlement]) -> Vec<Result<(), LogError>> {
        let until = Instant::now() + REBALANCE;
        loop {
            let (due, mut results) = self.due(settlements);
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
