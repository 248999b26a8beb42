//! What all handles of one log share.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogError, LogErrorKind, TopicName,
    log::{Offset, Settled, TopicInfo, TopicSpec},
};
use rdkafka::{
    Offset as Asked, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    error::{client, closed, configuration, error},
    fetcher::Fetchers,
    member::Member,
    native::{self, Native},
    options::KafkaOptions,
    probe,
    sender::Sender,
};

/// How long a question to the cluster may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How soon to ask again for what passes.
const AGAIN: Duration = Duration::from_millis(20);

/// How often a thread that serves a client looks whether it shall end.
pub(crate) const TICK: Duration = Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) options: KafkaOptions,
    pub(crate) closed: CancellationToken,
    /// Asks questions; it reads nothing.
    asking: Arc<BaseConsumer<Context>>,
    pub(crate) fetchers: Fetchers,
    /// How many partitions topics have that were produced to.
    partitions: RwLock<HashMap<TopicName, i32>>,
    pub(crate) members: Mutex<Vec<Weak<Member>>>,
    pub(crate) senders: Mutex<Vec<Weak<Sender>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Serves a client's own events until nobody has it any more.
pub(crate) fn serve(name: &str, consumer: &Arc<BaseConsumer<Context>>) -> Result<(), LogError> {
    let consumer = Arc::downgrade(consumer);
    let serving = move || {
        while let Some(consumer) = consumer.upgrade() {
            // Nothing is assigned to it, so there are no records: errors and log lines go to its context.
            let _ = consumer.poll(TICK);
        }
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(serving);
    spawned.map(drop).map_err(|error| {
        LogError::with_source(LogErrorKind::Unreachable, format!("cannot start the thread {name}"), error)
    })
}

impl Shared {
    /// Connects, and asks the cluster who it is. Waits.
    pub(crate) fn connect(options: KafkaOptions) -> Result<Arc<Self>, LogError> {
        options.try_out()?;
        let asking = probe::connect(&options)?;
        Ok(Arc::new(Self {
            fetchers: Fetchers::new(options.reading())?,
            options,
            closed: CancellationToken::new(),
            asking,
            partitions: RwLock::default(),
            members: Mutex::default(),
            senders: Mutex::default(),
        }))
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// Runs what waits on a thread of its own, unless the log is closed. Not one of the runtime's: that waits for them when it
    /// ends, and a broker that does not answer would hold up the process.
    pub(crate) async fn waiting<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        self.check()?;
        let shared = Arc::clone(self);
        let (tell, told) = oneshot::channel();
        // Whoever asked may be gone.
        let run = move || drop(tell.send(work(&shared)));
        let begun = std::thread::Builder::new().name("kafka-ask".to_owned()).spawn(run);
        begun.map_err(|error| {
            LogError::with_source(LogErrorKind::Unreachable, "a thread could not be started", error)
        })?;
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The name that a topic, group or transactional id has in the cluster.
    pub(crate) fn wire(&self, name: &str) -> String {
        format!("{}{name}", self.options.prefix)
    }

    /// As [`Self::wire`], of a name that is not a topic's; `what` says whose.
    pub(crate) fn checked(&self, what: &'static str, name: &str) -> Result<String, LogError> {
        aqueduct_core::name::check(what, name)?;
        let wire = self.wire(name);
        aqueduct_core::name::check(what, &wire)?;
        Ok(wire)
    }

    /// The name that we know a topic of the cluster by, if it is one of ours.
    pub(crate) fn unwire(&self, wire: &str) -> Option<TopicName> {
        TopicName::new(wire.strip_prefix(&self.options.prefix)?).ok()
    }

    fn native(&self) -> Arc<dyn Native> {
        let asking: Arc<dyn Native> = Arc::<BaseConsumer<Context>>::clone(&self.asking);
        asking
    }

    /// What a topic is, if it exists. Waits.
    pub(crate) fn describe(&self, topic: &TopicName) -> Result<Option<TopicInfo>, LogError> {
        let tried = || format!("cannot describe topic {topic}");
        let (wire, asking) = (self.wire(topic.as_str()), self.native());
        let described = match self.ask(cut_off, || native::describe_topic(&asking, &wire, PATIENCE)) {
            Ok(described) => described,
            Err((Code::UnknownTopicOrPartition | Code::UnknownTopic, _)) => return Ok(None),
            Err((code, said)) => return Err(error(&tried(), code, &said)),
        };
        let configs = match self.ask(cut_off, || native::configs(&asking, &wire, PATIENCE)) {
            Ok(configs) => configs,
            Err((Code::UnknownTopicOrPartition, _)) => return Ok(None),
            Err((code, said)) => return Err(error(&tried(), code, &said)),
        };
        let value =
            |name: &str| configs.iter().find(|config| config.name == name).map(|config| &*config.value);
        let limit = |name| value(name).and_then(|text| text.parse::<u64>().ok());
        let spec = TopicSpec {
            name: topic.clone(),
            partitions: Some(described.partitions),
            retention: limit("retention.ms").map(Duration::from_millis),
            retention_bytes: limit("retention.bytes"),
            compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
            replication: Some(described.replication),
            min_insync_replicas: value("min.insync.replicas").and_then(|text| text.parse().ok()),
        };
        Ok(Some(TopicInfo { id: described.id, spec }))
    }

    /// As [`Self::describe`], of a topic that must exist. Waits.
    pub(crate) fn require(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        self.describe(topic)?
            .ok_or_else(|| LogError::new(LogErrorKind::TopicMissing, format!("topic {topic} does not exist")))
    }

    /// Makes a topic unless it is there. Waits.
    pub(crate) fn ensure(&self, spec: &TopicSpec) -> Result<TopicInfo, LogError> {
        let topic = &spec.name;
        let partitions = spec.partitions.unwrap_or(self.options.partitions);
        if partitions < 1 {
            return Err(configuration(format!("partitions of {topic} must be at least 1, not {partitions}")));
        }
        if let Some(info) = self.describe(topic)? {
            return Ok(info);
        }
        if !self.options.create_topics {
            return Err(LogError::new(
                LogErrorKind::TopicMissing,
                format!("topic {topic} does not exist, and create_topics is false"),
            ));
        }
        let limit = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
        let millis = spec.retention.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 1));
        let deletes = millis.is_some() || spec.retention_bytes.is_some();
        let policy = match (spec.compacted, deletes) {
            (false, _) => "delete",
            (true, false) => "compact",
            (true, true) => "compact,delete",
        };
        let mut configs = vec![
            ("cleanup.policy", policy.to_owned()),
            ("retention.ms", limit(millis)),
            ("retention.bytes", limit(spec.retention_bytes)),
        ];
        configs
            .extend(spec.min_insync_replicas.map(|replicas| ("min.insync.replicas", replicas.to_string())));
        let (wire, asking) = (self.checked("topic", topic.as_str())?, self.native());
        let replication = spec.replication.unwrap_or(self.options.replication);
        let create = || native::create_topic(&asking, &wire, partitions, replication, &configs, PATIENCE);
        match self.ask(cut_off, create) {
            Ok(()) | Err((Code::TopicAlreadyExists, _)) => {}
            Err((code, said)) => return Err(error(&format!("cannot make topic {topic}"), code, &said)),
        }
        // Made by the controller; the other brokers hear of it a little later.
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(info) = self.describe(topic)? {
                return Ok(info);
            }
            if Instant::now() > until {
                return Err(LogError::new(
                    LogErrorKind::Unreachable,
                    format!("topic {topic} was made and is not there after {} s", PATIENCE.as_secs()),
                ));
            }
            thread::sleep(AGAIN);
        }
    }

    /// Adds partitions to a topic that has fewer than so many. Waits.
    pub(crate) fn add_partitions(&self, topic: &TopicName, partitions: i32) -> Result<(), LogError> {
        let has = |info: &TopicInfo| info.spec.partitions.is_some_and(|has| has >= partitions);
        if has(&self.require(topic)?) {
            return Ok(());
        }
        let (wire, asking) = (self.checked("topic", topic.as_str())?, self.native());
        let grow = || native::add_partitions(&asking, &wire, partitions, PATIENCE);
        let grown = self.ask(cut_off, grow);
        // Another process may have been first, and brokers hear of it a little later.
        let until = Instant::now() + PATIENCE;
        while !has(&self.require(topic)?) {
            if let Err((code, said)) = &grown {
                return Err(error(&format!("cannot add partitions to topic {topic}"), *code, said));
            }
            if Instant::now() > until {
                let message = format!("topic {topic} has no more partitions after {} s", PATIENCE.as_secs());
                return Err(LogError::new(LogErrorKind::Unreachable, message));
            }
            thread::sleep(AGAIN);
        }
        Ok(())
    }

    /// How many partitions a topic has that was produced to before.
    pub(crate) fn known(&self, topic: &TopicName) -> Option<i32> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied()
    }

    /// Finds or makes a topic to produce to. Waits.
    pub(crate) fn learn(&self, topic: &TopicName) -> Result<(), LogError> {
        let info = self.ensure(&TopicSpec::new(topic.clone()))?;
        let mut known = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(topic.clone(), info.spec.partitions.unwrap_or(1));
        Ok(())
    }

    /// Asks again while the failure `passes`.
    fn ask<T, E>(&self, passes: impl Fn(&E) -> bool, ask: impl Fn() -> Result<T, E>) -> Result<T, E> {
        let until = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Err(failed) if Instant::now() < until && passes(&failed) && !self.closed.is_cancelled() => {
                    thread::sleep(AGAIN);
                }
                answer => return answer,
            }
        }
    }

    /// Asks again while the cluster has to find itself: a partition that was just made, or whose leader moves.
    fn insist<T>(&self, tried: &str, ask: impl Fn() -> Result<T, KafkaError>) -> Result<T, LogError> {
        self.check()?;
        let again = |failed: &KafkaError| {
            failed.rdkafka_error_code().is_some_and(passes) && !aqueduct_core::planted("kafka-asks-once")
        };
        self.ask(again, ask).or_else(|failed| self.check().and(Err(client(tried, failed))))
    }

    /// The first offset and the one after the last. Waits.
    pub(crate) fn range(&self, topic: &TopicName, partition: i32) -> Result<(Offset, Offset), LogError> {
        let wire = self.wire(topic.as_str());
        self.insist(&format!("cannot ask for the ends of {topic}/{partition}"), || {
            self.asking.fetch_watermarks(&wire, partition, PATIENCE)
        })
    }

    /// The offset after the last record of each partition, by one request to each broker. Waits.
    pub(crate) fn ends(&self, topic: &TopicName, partitions: i32) -> Result<Vec<Offset>, LogError> {
        let (wire, tried) = (self.wire(topic.as_str()), format!("cannot ask for the ends of {topic}"));
        let ends = self.insist(&tried, || {
            let mut asked = TopicPartitionList::new();
            for partition in 0..partitions {
                // As a time, -1 is the end: ListOffsets in Kafka's protocol.
                asked.add_partition_offset(&wire, partition, Asked::End)?;
            }
            let mut ends = HashMap::new();
            for told in self.asking.offsets_for_times(asked, PATIENCE)?.elements() {
                told.error()?;
                if let Asked::Offset(end) = told.offset() {
                    ends.insert(told.partition(), end);
                }
            }
            Ok(ends)
        })?;
        let end = |partition| {
            let end = ends.get(&partition).copied();
            end.ok_or_else(|| error(&tried, Code::Fail, &format!("partition {partition} was not answered")))
        };
        (0..partitions).map(end).collect()
    }

    /// The offset of the first record that is not older than `millis`, or the end. Waits.
    pub(crate) fn at_time(&self, topic: &TopicName, partition: i32, millis: i64) -> Result<Offset, LogError> {
        let tried = format!("cannot search {topic}/{partition} by time");
        let wire = self.wire(topic.as_str());
        let found = self.insist(&tried, || {
            let mut asked = TopicPartitionList::new();
            // A time before 1970 is the first record's or older: negative values mean other things.
            asked.add_partition_offset(&wire, partition, Asked::Offset(millis.max(0)))?;
            let found = self.asking.offsets_for_times(asked, PATIENCE)?;
            let Some(found) = found.find_partition(&wire, partition) else { return Ok(Asked::End) };
            found.error()?;
            Ok(found.offset())
        })?;
        match found {
            Asked::Offset(offset) => Ok(offset),
            // Nothing is as new.
            _ => Ok(self.range(topic, partition)?.1),
        }
    }

    /// The settled offsets of the group that this client has, as a member or not. Waits.
    ///
    /// Not by an administrator's request: librdkafka 2.12.1 reads null where the answer to that one is that the group has
    /// moved to another broker, unless the client has a group itself (`rd_kafka_handle_OffsetFetch`).
    pub(crate) fn settled<C: ConsumerContext>(
        &self,
        asking: &BaseConsumer<C>,
        group: &str,
        partitions: &[(TopicName, i32)],
    ) -> Result<Vec<Option<Settled>>, LogError> {
        self.insist(&format!("cannot ask for the settled offsets of group {group}"), || {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition(&self.wire(topic.as_str()), *partition);
            }
            // One that a transaction is about to settle is an error, and asked for again.
            let told = asking.committed_offsets(list, PATIENCE)?;
            let settled = |told: &TopicPartitionListElem<'_>| match told.offset() {
                Asked::Offset(offset) => Some(Settled { offset, metadata: told.metadata().to_owned() }),
                _ => None,
            };
            told.elements().iter().map(|told| told.error().map(|()| settled(told))).collect()
        })
    }

    /// As [`Self::settled`], of a group, and its name in the cluster, that this process need not belong to. Waits.
    pub(crate) fn settled_of(
        &self,
        (group, wire): (&str, &str),
        partitions: &[(TopicName, i32)],
    ) -> Result<Vec<Option<Settled>>, LogError> {
        let made = self.options.asking_of(wire).create_with_context(Context::default());
        let asking: BaseConsumer<Context> =
            made.map_err(|failed| client(&format!("cannot ask group {group}"), failed))?;
        self.settled(&asking, group, partitions)
    }
}

/// Whether a request met a broker that went away, or was another's by then: the client asks the next.
fn cut_off((code, _): &(Code, String)) -> bool {
    went_away(*code)
}

fn went_away(code: Code) -> bool {
    matches!(code, Code::BrokerTransportFailure | Code::NotController)
}

/// Whether asking again soon may help. Who asks has seen that the topic exists.
fn passes(code: Code) -> bool {
    let moves = matches!(
        code,
        Code::UnstableOffsetCommit
            | Code::NotCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::ReplicaNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
    );
    moves || went_away(code)
}
