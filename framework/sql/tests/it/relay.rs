//! P5: the relay skips nothing, doubles nothing, and a deposed one writes nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, Environment, LogError, LogErrorKind, NewRecord, Record, TopicName,
    effects::{Effects, EffectsError, Relay, RelayMode},
    environment::{Random, SystemClock},
    log::{
        Capabilities, CommitLog, Consumer, GroupToken, Offset, PartitionId, PartitionReader, Position,
        Producer, Settled, Settlement, Start, TopicInfo, TopicSpec, TransactionalProducer,
    },
};
use aqueduct_memory::MemoryLog;
use aqueduct_sql::{Database, rusqlite::Connection};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::*;

/// A memory log that remembers what its transactions carried, and that can lose the answer of one that committed.
#[derive(Debug, Clone)]
pub(crate) struct SpyLog {
    log: Arc<MemoryLog>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    sent: Vec<NewRecord>,
    commits: usize,
    lose_answer: Option<LogErrorKind>,
}

impl SpyLog {
    pub(crate) fn new(partitions: i32) -> Self {
        Self { log: Arc::new(MemoryLog::new(partitions)), seen: Arc::default() }
    }

    /// What was committed to other topics than the cursor's.
    pub(crate) fn sent(&self) -> Vec<NewRecord> {
        self.seen.lock().unwrap().sent.clone()
    }

    fn numbers(&self) -> Vec<i64> {
        let key = |record: &NewRecord| {
            std::str::from_utf8(record.key.as_deref().unwrap()).unwrap().parse().unwrap()
        };
        self.sent().iter().map(key).collect()
    }

    /// What a topic holds, by the numbers in the keys.
    async fn stored(&self, name: &str) -> Vec<i64> {
        let mut numbers = Vec::new();
        for (partition, end) in (0..).zip(self.log.end_offsets(&topic(name)).await.unwrap()) {
            let partition = PartitionId { topic: topic(name), partition };
            let mut reader = self.log.cursor(&partition, Start::Earliest).await.unwrap();
            while reader.position() < end {
                for record in Record::all(&reader.read(1_000).await.unwrap()) {
                    numbers.push(std::str::from_utf8(record.key().unwrap()).unwrap().parse().unwrap());
                }
            }
        }
        numbers
    }

    fn lose_next_answer(&self, kind: LogErrorKind) {
        self.seen.lock().unwrap().lose_answer = Some(kind);
    }
}

impl CommitLog for SpyLog {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }
    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        self.log.ensure_topic(spec)
    }
    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.log.describe_topic(topic)
    }
    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.log.add_partitions(topic, partitions)
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        self.log.producer()
    }
    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            let producer = self.log.transactional_producer(id).await?;
            Ok(Box::new(Spy { producer, seen: Arc::clone(&self.seen) }) as Box<dyn TransactionalProducer>)
        })
    }
    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        self.log.consumer(group, topics)
    }
    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        self.log.cursor(partition, start)
    }
    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        self.log.end_offsets(topic)
    }
    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        self.log.settled_offsets(group, topic)
    }
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.close()
    }
}

#[derive(Debug)]
struct Spy {
    producer: Box<dyn TransactionalProducer>,
    seen: Arc<Mutex<Seen>>,
}

impl TransactionalProducer for Spy {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let positions = self.producer.commit(records.clone(), settlements).await?;
            let mut seen = self.seen.lock().unwrap();
            seen.commits += 1;
            seen.sent.extend(
                records.into_iter().filter(|record| !record.topic.as_str().ends_with(".outbox-cursor")),
            );
            match seen.lose_answer.take() {
                Some(kind) => Err(LogError::new(kind, "the answer was lost")),
                None => Ok(positions),
            }
        })
    }
}

struct Counting(std::sync::atomic::AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let next = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(next.iter().cycle()).for_each(|(byte, next)| *byte = *next);
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), EffectsError>>,
}

fn start(db: &Database, log: &SpyLog) -> Running {
    start_named(db, log, "bank")
}

fn start_named(db: &Database, log: &SpyLog, outbox: &str) -> Running {
    start_as(db, log, outbox, RelayMode::ExactlyOnce)
}

fn start_as(db: &Database, log: &SpyLog, outbox: &str, mode: RelayMode) -> Running {
    let (stop, stopped) = oneshot::channel();
    let relay = db.relay(Relay {
        outbox: outbox.to_owned(),
        mode,
        log: Arc::new(log.clone()),
        environment: Environment::new(SystemClock, Counting(1.into())),
        report: Arc::new(|_| {}),
        stop: Box::pin(async move {
            let _ = stopped.await;
        }),
    });
    Running { stop, task: tokio::spawn(relay) }
}

impl Running {
    async fn stop(self) -> Result<(), EffectsError> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// What it says when it ends by itself.
    async fn end(self) -> String {
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.unwrap().unwrap().unwrap_err().to_string()
    }
}

/// Waits until nothing waits in the outbox, by looking at it.
async fn emptied(db: &Database) {
    let empty = async {
        while db.outbox().await.unwrap().waiting > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), empty).await.unwrap();
}

/// Runs a relay until the outbox is empty.
pub(crate) async fn drain(db: &Database, log: &SpyLog) {
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    log.ensure_topic(TopicSpec::new(topic("any.topic"))).await.unwrap();
    let relay = start(db, log);
    emptied(db).await;
    relay.stop().await.unwrap();
}

async fn deposits(db: &Database, numbers: std::ops::RangeInclusive<i64>) {
    let claim = take(db).await.claim;
    for number in numbers {
        deliver(db, claim, number).await;
    }
}

/// P5. Red when the relay's batch is not in id order, or is cut at its bounds and loses the rest.
#[tokio::test]
async fn events_arrive_once_in_order_and_their_rows_go() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 1).await;
    (1..=2_500).for_each(|number| transaction.stage(record(number)));
    transaction.commit().await.unwrap();
    drain(db, &log).await;
    assert_eq!(log.numbers(), (1..=2_500).collect::<Vec<_>>());
    assert_eq!(log.seen.lock().unwrap().commits, 3);
    // A stopped relay lets go of its lease; the next one cleans while idle, and keeps the cursor's own row.
    let relay = start(db, &log);
    let cleaned = async {
        while number(db, "SELECT count(*) FROM aqueduct_outbox").await > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), cleaned).await.unwrap();
    // It is woken by a commit of this process.
    transaction = begin(db, claim, 2).await;
    transaction.stage(record(2_501));
    transaction.commit().await.unwrap();
    emptied(db).await;
    relay.stop().await.unwrap();
    assert_eq!(log.numbers().len(), 2_501);
}

/// P5. The log committed, the answer or the process was lost before the table's cursor moved. Red when `reconcile`
/// goes on from the table's cursor.
#[tokio::test]
async fn a_crash_between_log_and_table_publishes_nothing_twice() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    for (round, kind) in [LogErrorKind::UnknownOutcome, LogErrorKind::Unreachable].into_iter().enumerate() {
        let first = i64::try_from(round).unwrap() * 5 + 1;
        deposits(db, first..=first + 4).await;
        log.lose_next_answer(kind);
        drain(db, &log).await;
    }
    db.write(|conn| conn.execute("UPDATE aqueduct_relay SET cursor = 3, cursor_event = NULL", []))
        .await
        .unwrap();
    deposits(db, 11..=12).await;
    drain(db, &log).await;
    assert_eq!(log.numbers(), (1..=12).collect::<Vec<_>>());
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_relay_fork").await, 0);
}

/// P5, P4. A database restored from a copy gives ids again; what it stages then is new. Red when `reconcile` trusts
/// the log's cursor without comparing the event ids: it drops 20 and 21 as published.
#[tokio::test]
async fn a_restored_database_drops_nothing() {
    for staged_anew in [1, 9] {
        let fixture = fixture().await;
        let db = &fixture.db;
        let log = SpyLog::new(4);
        deposits(db, 1..=5).await;
        drain(db, &log).await;
        let copy = fixture.dir.path().join("copy.db");
        let conn = Connection::open(fixture.dir.path().join("service.db")).unwrap();
        conn.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        deposits(db, 6..=10).await;
        drain(db, &log).await;

        let restored = Database::open(&copy, SCHEMA).await.unwrap();
        deposits(&restored, 20..=19 + staged_anew).await;
        drain(&restored, &log).await;
        let expected: Vec<i64> = (1..=10).chain(20..=19 + staged_anew).collect();
        assert_eq!(log.numbers(), expected);
        assert_eq!(
            number(&restored, "SELECT count(*) FROM aqueduct_relay_fork WHERE after = 5 AND upto = 10").await,
            1
        );
        // The new history goes on as any other.
        deposits(&restored, 40..=41).await;
        drain(&restored, &log).await;
        assert_eq!(log.numbers().len(), expected.len() + 2);
        assert_eq!(number(&restored, "SELECT count(*) FROM aqueduct_relay_fork").await, 1);
    }
}

/// P5, at least once. Red when a transaction is used, or rows are not sent in id order.
#[tokio::test]
async fn without_transactions_events_arrive_in_order() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(1);
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 1).await;
    (1..=2_500).for_each(|number| transaction.stage(record(number)));
    transaction.commit().await.unwrap();
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    let relay = start_as(db, &log, "bank", RelayMode::AtLeastOnce);
    emptied(db).await;
    relay.stop().await.unwrap();
    assert_eq!(log.stored("bank.deposits").await, (1..=2_500).collect::<Vec<_>>());
    assert_eq!(log.seen.lock().unwrap().commits, 0);
}

/// P5, at least once. A record that is refused for long stops those behind it; what was stored with it comes again once,
/// not with each attempt. Red when `rows` stays, or the cursor does not move over what was stored before it.
#[tokio::test]
async fn without_transactions_a_refused_record_repeats_no_others_for_ever() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(1);
    for name in ["bank.deposits", "any.topic"] {
        log.ensure_topic(TopicSpec::new(topic(name))).await.unwrap();
    }
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 1).await;
    for number in 1..=6 {
        let to = topic(if number == 3 { "any.topic" } else { "bank.deposits" });
        transaction.stage(NewRecord { topic: to, ..record(number) });
    }
    transaction.commit().await.unwrap();
    log.log.faults().fail_topics("any.topic", LogErrorKind::RecordTooLarge);
    let relay = start_as(db, &log, "bank", RelayMode::AtLeastOnce);
    let attempts = async {
        while log.log.faults().counts().outages < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), attempts).await.unwrap();
    assert_eq!(log.stored("bank.deposits").await, [1, 2, 4, 5, 6]);
    assert_eq!(number(db, "SELECT cursor FROM aqueduct_relay").await, 2);
    log.log.faults().heal_topics();
    emptied(db).await;
    relay.stop().await.unwrap();
    assert_eq!(log.stored("bank.deposits").await, [1, 2, 4, 5, 6, 4, 5, 6]);
    assert_eq!(log.stored("any.topic").await, [3]);
}

/// P5. A relay may change its mode between two starts. Red when the log's cursor stays while batches are no
/// transactions: exactly once would take its rows for lost and send them again.
#[tokio::test]
async fn changing_the_mode_repeats_and_drops_nothing() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(1);
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    let modes =
        [RelayMode::ExactlyOnce, RelayMode::AtLeastOnce, RelayMode::AtLeastOnce, RelayMode::ExactlyOnce];
    for (mode, first) in modes.into_iter().zip((1..).step_by(5)) {
        deposits(db, first..=first + 4).await;
        let relay = start_as(db, &log, "bank", mode);
        emptied(db).await;
        relay.stop().await.unwrap();
    }
    assert_eq!(log.stored("bank.deposits").await, (1..=20).collect::<Vec<_>>());
    // It says that it cannot compare: nothing lies between.
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_relay_fork WHERE after = upto").await, 1);
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_relay_fork").await, 1);
}

/// P5. Red when `advance` does not look at the term.
#[tokio::test]
async fn a_relay_deposed_by_term_ends() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    let relay = start(db, &log);
    deposits(db, 1..=1).await;
    emptied(db).await;
    db.write(|conn| conn.execute("UPDATE aqueduct_relay SET term = term + 1", [])).await.unwrap();
    deposits(db, 2..=2).await;
    let error = relay.end().await;
    assert!(error.contains("deposed"), "{error}");
    assert_eq!(number(db, "SELECT cursor FROM aqueduct_relay").await, 1);
    // The next finds the log ahead of the table.
    drain(db, &log).await;
    assert_eq!(log.numbers(), [1, 2]);
}

/// P5. Red when `Fenced` is answered by opening the producer again.
#[tokio::test]
async fn a_fenced_relay_writes_nothing_more() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    let relay = start(db, &log);
    deposits(db, 1..=1).await;
    emptied(db).await;
    let _newer = log.transactional_producer("aqueduct.outbox.bank").await.unwrap();
    deposits(db, 2..=2).await;
    let error = relay.end().await;
    assert!(error.contains("deposed"), "{error}");
    assert_eq!(log.numbers(), [1]);
    drain(db, &log).await;
    assert_eq!(log.numbers(), [1, 2]);
}

/// P5. Red when `acquire` takes a lease that is held.
#[tokio::test]
async fn a_second_relay_waits_and_then_goes_on() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    log.ensure_topic(TopicSpec::new(topic("bank.deposits"))).await.unwrap();
    let first = start(db, &log);
    deposits(db, 1..=3).await;
    emptied(db).await;
    let second = start(db, &log);
    deposits(db, 4..=6).await;
    emptied(db).await;
    assert!(!second.task.is_finished());
    assert_eq!(number(db, "SELECT term FROM aqueduct_relay").await, 1);
    first.stop().await.unwrap();
    deposits(db, 7..=9).await;
    emptied(db).await;
    assert_eq!(number(db, "SELECT term FROM aqueduct_relay").await, 2);
    second.stop().await.unwrap();
    assert_eq!(log.numbers(), (1..=9).collect::<Vec<_>>());
    // An outbox has one name: under another its rows would be published again.
    let error = start_named(db, &log, "till").task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("\"bank\""), "{error}");
}

/// P5. An unreachable log is retried. Red when `Unreachable` ends the relay.
#[tokio::test]
async fn an_outage_is_waited_out() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let log = SpyLog::new(4);
    deposits(db, 1..=2).await;
    log.log.faults().fail_next_transactions(2, LogErrorKind::Unreachable);
    drain(db, &log).await;
    assert_eq!(log.numbers(), [1, 2]);
}
