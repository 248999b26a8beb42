//! A member of a group: a client that does nothing but belong to it. It is given partitions and reads none of them; that
//! is done by clients without a group (`fetcher`), so a rebalance stops nobody's reading.

mod settling;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64},
    },
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId, Settled},
};
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::{RDKafkaErrorCode as Code, RDKafkaRespErr},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use settling::Due;

use crate::{
    context::log,
    error::{client, kind},
    native::GroupMetadata,
    shared::{PATIENCE, Shared},
};

/// How soon an answer to a revoke, or a leave, is noticed.
const BEAT: Duration = Duration::from_millis(50);

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
    /// Somebody has waited for that.
    pub(crate) waited: AtomicBool,
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

impl State {
    /// A partition that it has under this generation.
    fn given(&self, partition: &PartitionId, generation: i64) -> Option<&Owned> {
        let any = aqueduct_core::planted("kafka-settles-for-anybody");
        self.owned.get(partition).filter(|owned| owned.generation == generation || any)
    }
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
            waited: AtomicBool::new(false),
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
            if !partitions.is_empty() && !aqueduct_core::planted("kafka-loss-not-told") {
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
        if aqueduct_core::planted("kafka-revoke-answered-at-once") {
            self.tell(Told::Revoking(partitions));
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
        self.state().given(partition, generation).is_some()
    }

    /// Where the group stands. Waits.
    pub(crate) fn settled(
        &self,
        partitions: &[(aqueduct_core::TopicName, i32)],
    ) -> Result<Vec<Option<Settled>>, LogError> {
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
        match state.given(partition, generation) {
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

    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.shared.check()?;
        if self.leaving.is_cancelled() { Err(self.left_it()) } else { Ok(()) }
    }

    fn left_it(&self) -> LogError {
        LogError::new(LogErrorKind::Closed, format!("this consumer of group {} was closed", self.group))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
