//! R4: a subscription with a database keeps its position there, and what it publishes is part of its transactions.

use std::{path::Path, sync::Arc, time::Duration};

use aqueduct::{
    core::log::{CommitLog, Signal},
    memory::MemoryLog,
    prelude::*,
};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "bank.Deposited", topic = "deposits", key = account)]
pub(crate) struct Deposited {
    pub(crate) account: u32,
    pub(crate) number: i64,
}

async fn apply(event: Deposited, tx: Tx<Sqlite>) -> Handled {
    tx.execute("INSERT INTO applied VALUES (?1)", [event.number])?;
    Ok(())
}

/// What a deposit causes.
#[derive(Serialize, Deserialize, Event)]
#[event(name = "bank.Confirmed", topic = "confirmations", key = number)]
pub(crate) struct Confirmed {
    pub(crate) number: i64,
}

/// The commit of number 0 fails, whatever the handler says.
async fn confirm(event: Deposited, tx: Tx<Sqlite>) -> Handled<Confirmed> {
    tx.execute("INSERT INTO applied SELECT ?1 WHERE ?1 > 0", [event.number])?;
    tx.execute("INSERT INTO child SELECT 404 WHERE ?1 = 0", [event.number])?;
    Ok(Confirmed { number: event.number })
}

pub(crate) async fn number(database: &Database, sql: &'static str) -> i64 {
    database.read(move |conn| conn.query_row(sql, [], |row| row.get(0))).await.unwrap()
}

pub(crate) async fn open(path: &Path) -> Database {
    let schema = "CREATE TABLE IF NOT EXISTS applied (number INTEGER PRIMARY KEY);
        CREATE TABLE IF NOT EXISTS child (parent INTEGER REFERENCES applied (number) DEFERRABLE INITIALLY DEFERRED)";
    Database::open(path, schema).await.unwrap()
}

pub(crate) async fn publish(bus: &Bus, numbers: std::ops::Range<i64>) {
    let events = numbers.map(|number| Deposited { account: 1, number });
    bus.publish_all(events.collect::<Vec<_>>().iter()).await.unwrap();
}

/// Waits for what comes, and never long enough to be met by chance.
pub(crate) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect(what);
}

/// Waits until the database holds so many effects.
async fn applied(database: &Database, effects: i64) {
    until("all are handled", async || number(database, "SELECT count(*) FROM applied").await >= effects)
        .await;
}

/// The service, running.
struct Running {
    status: aqueduct::Status,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), aqueduct::AppError>>,
}

impl Running {
    fn begin(bus: &Bus, database: &Database, subscription: Subscription<()>) -> Self {
        let app = App::builder("bank").log(bus).database(database).subscribe(subscription).build().unwrap();
        let (status, (stop, stopped)) = (app.status(), tokio::sync::oneshot::channel::<()>());
        Self { status, stop, task: tokio::spawn(app.run(stopped)) }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Runs the service until its database holds so many effects.
async fn run_until(bus: &Bus, database: &Database, effects: i64) {
    let running = Running::begin(bus, database, Subscription::builder("bank").on(apply));
    applied(database, effects).await;
    running.end().await;
}

/// P3, P4. Red when the settled offset is stored in the log alone: the marks above it then grow for ever.
#[tokio::test]
async fn the_settled_offset_is_stored_in_the_database_and_takes_its_marks_along() {
    let folder = tempfile::tempdir().unwrap();
    let bus = aqueduct::connect("memory:").await.unwrap();
    let database = open(&folder.path().join("bank.db")).await;
    publish(&bus, 0..10).await;
    run_until(&bus, &database, 10).await;
    assert_eq!(number(&database, "SELECT sum(settled) FROM aqueduct_position").await, 10);
    assert_eq!(number(&database, "SELECT count(*) FROM aqueduct_mark").await, 0);
}

/// P4. A database that was restored from a copy resumes where it stands. Red when reading starts where the log says.
#[tokio::test]
async fn the_database_decides_where_reading_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("bank.db"), folder.path().join("copy.db"));
    let bus = aqueduct::connect("memory:").await.unwrap();
    let database = open(&path).await;
    publish(&bus, 0..5).await;
    run_until(&bus, &database, 5).await;
    let backup = aqueduct::rusqlite::Connection::open(&path).unwrap();
    backup.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    publish(&bus, 5..10).await;
    run_until(&bus, &database, 10).await;
    run_until(&bus, &open(&copy).await, 10).await;
}

/// R2, P4. A new database of a group that stands at the end in the log: where `Latest` began is kept before anything is
/// handled, else a kill would begin at a later end. Red when what the log has is taken for what the database has.
#[tokio::test]
async fn a_new_database_keeps_its_start_where_the_log_has_the_same_offset() {
    let folder = tempfile::tempdir().unwrap();
    let bus = aqueduct::connect("memory:").await.unwrap();
    publish(&bus, 0..10).await;
    run_until(&bus, &open(&folder.path().join("bank.db")).await, 10).await;
    let database = open(&folder.path().join("new.db")).await;
    let subscription = Subscription::builder("bank").on(apply).start(aqueduct::core::log::Start::Latest);
    let running = Running::begin(&bus, &database, subscription);
    let settled = "SELECT coalesce(sum(settled), 0) FROM aqueduct_position";
    until("the start is kept", async || number(&database, settled).await >= 10).await;
    running.end().await;
}

/// P10, R4. A process that had lost the partition wakes, takes it in the database, and gives up. Red when who has it by the
/// group's word waits for the next rebalance.
#[tokio::test]
async fn who_was_fenced_by_a_sleeper_takes_its_partition_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    let (bus, database) = (aqueduct::connect("memory:").await.unwrap(), open(&path).await);
    let running = Running::begin(&bus, &database, Subscription::builder("bank").on(apply));
    publish(&bus, 0..5).await;
    applied(&database, 5).await;
    let sleeper = aqueduct::rusqlite::Connection::open(&path).unwrap();
    sleeper.execute("UPDATE aqueduct_position SET generation = generation + 1", []).unwrap();
    publish(&bus, 5..10).await;
    applied(&database, 10).await;
    assert_eq!(number(&database, "SELECT count(*) FROM applied").await, 10);
    running.end().await;
}

/// P4, R7. A process sleeps after it was assigned its partition and before it takes it in the database; another has it when it
/// wakes. Red when the group is not asked once more after the take: the sleeper's claim is the newest, and it writes.
#[tokio::test]
async fn a_sleeper_that_takes_what_it_has_lost_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    let log = MemoryLog::new(1);
    let bus = Bus::open(Arc::new(log.clone()), aqueduct::system_environment()).await.unwrap();
    let database = open(&path).await;
    publish(&bus, 0..5).await;
    run_until(&bus, &database, 5).await;
    publish(&bus, 5..10).await;
    let taken = number(&database, "SELECT sum(generation) FROM aqueduct_position").await;
    // What keeps it: the database's only place to write.
    let sleeps = aqueduct::rusqlite::Connection::open(&path).unwrap();
    sleeps.execute_batch("BEGIN IMMEDIATE").unwrap();
    let running = Running::begin(&bus, &database, Subscription::builder("bank").on(apply));
    let partitions = || running.status.subscriptions()[0].partitions.clone();
    until("it is given its partition", async || partitions().len() == 1).await;
    // It loses the partition, and the word of it is late.
    let faults = log.faults();
    faults.hold_signals(&log);
    let topic = aqueduct::TopicName::new("deposits").unwrap();
    let other = log.process().consumer("bank", std::slice::from_ref(&topic)).await.unwrap();
    faults.expire(&log);
    let Signal::Assigned(given) = other.signal().await.unwrap() else { panic!("it is given the partition") };
    assert_eq!(given.len(), 1);
    sleeps.execute_batch("COMMIT").unwrap();
    let said = |text: &str| {
        partitions().values().any(|one| one.waiting.as_ref().is_some_and(|said| said.contains(text)))
    };
    until("the group says whose it is", async || said("another member")).await;
    assert!(
        number(&database, "SELECT sum(generation) FROM aqueduct_position").await > taken,
        "it was not taken"
    );
    assert_eq!(number(&database, "SELECT count(*) FROM applied").await, 5);
    assert_eq!(other.confirm(given.clone()).await.unwrap(), given);
    // It joins anew, and gets what the other leaves.
    faults.release_signals(&log);
    other.close().await.unwrap();
    applied(&database, 10).await;
    running.end().await;
}

/// P4, R4. The word of its loss is late; the database, which the next owner has taken it in, is the first to say so. Red when it is
/// taken again there without the group's leave: the owner is fenced.
#[tokio::test]
async fn who_has_lost_a_partition_and_is_told_so_by_the_database_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = MemoryLog::new(1);
    let bus = Bus::open(Arc::new(log.clone()), aqueduct::system_environment()).await.unwrap();
    let database = open(&folder.path().join("bank.db")).await;
    let running = Running::begin(&bus, &database, Subscription::builder("bank").on(apply));
    publish(&bus, 0..5).await;
    applied(&database, 5).await;
    let faults = log.faults();
    faults.hold_signals(&log);
    let next = Bus::open(Arc::new(log.process()), aqueduct::system_environment()).await.unwrap();
    let next = Running::begin(&next, &database, Subscription::builder("bank").on(apply));
    faults.expire(&log);
    publish(&bus, 5..10).await;
    applied(&database, 10).await;
    let left = || {
        let partitions = running.status.subscriptions()[0].partitions.clone();
        partitions
            .values()
            .any(|one| one.waiting.as_ref().is_some_and(|said| said.contains("another member")))
    };
    until("the group says whose it is", async || left()).await;
    assert_eq!(number(&database, "SELECT sum(generation) FROM aqueduct_position").await, 2);
    assert_eq!(number(&database, "SELECT count(*) FROM applied").await, 10);
    faults.release_signals(&log);
    running.end().await;
    next.end().await;
}

/// P4, P5. Red when what a handler returns is published beside its transaction: the commit may fail.
#[tokio::test]
async fn what_a_handler_returns_is_published_only_if_its_transaction_commits() {
    let folder = tempfile::tempdir().unwrap();
    let bus = aqueduct::connect("memory:").await.unwrap();
    let database = open(&folder.path().join("bank.db")).await;
    for account in 0..2 {
        bus.publish(&Deposited { account, number: i64::from(account) }).await.unwrap();
    }
    let subscription = Subscription::builder("bank").on(confirm);
    let running = Running::begin(&bus, &database, subscription);
    let both_were_tried = async || {
        let status = &running.status.subscriptions()[0];
        status.retried > 0 && status.ended > 0
    };
    until("both are tried", both_were_tried).await;
    running.end().await;
    let topic = aqueduct::TopicName::new("confirmations").unwrap();
    assert_eq!(bus.log().end_offsets(&topic).await.unwrap().into_iter().sum::<i64>(), 1);
}
