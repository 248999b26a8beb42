//! A database in a directory of its own, and short words for what the tests do.

use aqueduct_core::{
    NewRecord, Record, TopicName,
    cloudevents::Incoming,
    effects::{Begin, Claim, Effects, EventMark, Place, Scope, Taken, Transaction},
    handler::{Context, FromDelivery},
    log::{Offset, PartitionId},
    record::{HeadersBuilder, OwnedRecord},
};
use aqueduct_sql::{Database, Sqlite, Tx, rusqlite};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS parent (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO account VALUES (1, 0) ON CONFLICT DO NOTHING;
";

pub(crate) struct Fixture {
    pub(crate) db: Database,
    pub(crate) dir: TempDir,
}

pub(crate) async fn fixture() -> Fixture {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path().join("service.db"), SCHEMA).await.unwrap();
    Fixture { db, dir }
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub(crate) fn scope(partition: i32) -> Scope {
    Scope {
        subscription: "inventory".to_owned(),
        topic_id: Uuid::from_u128(7),
        partition: PartitionId { topic: topic("till.baskets"), partition },
    }
}

pub(crate) async fn take(db: &Database) -> Taken {
    db.take(&scope(0)).await.unwrap()
}

pub(crate) async fn begin(db: &Database, claim: Claim, offset: Offset) -> Box<dyn Transaction> {
    match db.begin(claim, Place::Live(offset), Some(event(offset))).await.unwrap() {
        Begin::New(transaction) => transaction,
        other => panic!("{offset}: {other:?}"),
    }
}

/// The mark of the event that stands at an offset.
pub(crate) fn event(offset: Offset) -> EventMark {
    u128::try_from(offset).unwrap().to_be_bytes()
}

/// The `Tx`, as the extractor takes it.
pub(crate) fn tx(transaction: &mut Box<dyn Transaction>) -> Tx<Sqlite> {
    let mut headers = HeadersBuilder::new();
    headers.push(b"ce_type", Some(b"t.E"));
    let record = Record::from(OwnedRecord {
        topic: topic("till.baskets"),
        partition: 0,
        offset: 0,
        timestamp: aqueduct_core::Timestamp::default(),
        key: None,
        headers: headers.build(),
        value: None,
    });
    let incoming = Incoming::read(&record, None).unwrap();
    let lease = transaction.lease();
    let mut context =
        Context { state: &(), incoming: &incoming, payload: b"", attempt: 1, lease, replayed: false };
    Tx::from_delivery(&mut context).map_err(|error| error.to_string()).unwrap()
}

pub(crate) fn deposit(conn: &rusqlite::Connection, amount: i64) {
    conn.execute("UPDATE account SET balance = balance + ?1 WHERE id = 1", [amount]).unwrap();
}

pub(crate) async fn balance(db: &Database) -> i64 {
    number(db, "SELECT balance FROM account WHERE id = 1").await
}

pub(crate) async fn number(db: &Database, sql: &'static str) -> i64 {
    db.read(move |conn| conn.query_row(sql, [], |row| row.get(0))).await.unwrap()
}

/// One delivery from begin to commit that deposits 1 and stages one event.
pub(crate) async fn deliver(db: &Database, claim: Claim, offset: Offset) {
    let mut transaction = begin(db, claim, offset).await;
    deposit(&tx(&mut transaction), 1);
    transaction.stage(record(offset));
    transaction.commit().await.unwrap();
}

pub(crate) fn record(number: i64) -> NewRecord {
    let mut headers = HeadersBuilder::new();
    headers.push(b"ce_id", Some(Uuid::from_u128(u128::try_from(number).unwrap()).to_string().as_bytes()));
    headers.push(b"ce_type", Some(b"t.Deposited"));
    headers.push(b"ce_source", Some(b"bank"));
    NewRecord {
        topic: topic("bank.deposits"),
        partition: None,
        key: Some(number.to_string().into_bytes().into()),
        headers: headers.build(),
        value: Some(format!("{{\"n\":{number}}}").into_bytes().into()),
        timestamp: aqueduct_core::Timestamp::from_micros(number),
    }
}
