//! P12, P1: opening, closing, reading.

use std::time::Duration;

use aqueduct_core::{
    Timestamp,
    effects::{Begin, Effects},
    environment::Clock,
};
use aqueduct_sql::{Database, DatabaseError, rusqlite::Connection};

use crate::support::*;

/// P12. Red when `check_owner` is not called before the first write.
#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_untouched() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("other.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA application_id = 4711; CREATE TABLE t (x)").unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let error = Database::open(&path, "").await.unwrap_err();
    assert!(matches!(error, DatabaseError::NotOurs { found: 4711, .. }), "{error}");
    assert!(error.to_string().contains("other.db"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let text = dir.path().join("text.db");
    std::fs::write(&text, "no database at all, but long enough to be looked at".repeat(40)).unwrap();
    let error = Database::open(&text, "").await.unwrap_err().to_string();
    assert!(error.contains("text.db") && error.contains("not a database"), "{error}");
    let error = Database::open(dir.path().join("no/such/dir.db"), "").await.unwrap_err().to_string();
    assert!(error.contains("dir.db"), "{error}");
}

/// P12. Red when a newer format is opened.
#[tokio::test]
async fn a_newer_format_is_refused() {
    let fixture = fixture().await;
    let path = fixture.dir.path().join("service.db");
    fixture.db.write(|conn| conn.execute("UPDATE aqueduct_format SET format = 9", [])).await.unwrap();
    fixture.db.close().await;
    let error = Database::open(&path, SCHEMA).await.unwrap_err();
    assert!(matches!(error, DatabaseError::NewerFormat { found: 9, known: 1, .. }), "{error}");
}

/// P12. A file of the service's own, with its own `user_version`, is adopted. Red when the application id must be set.
#[tokio::test]
async fn a_services_own_file_is_adopted() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("monolith.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 12; CREATE TABLE t (x)").unwrap();
    let db = Database::open(&path, SCHEMA).await.unwrap();
    deposits(&db).await;
    assert_eq!(number(&db, "PRAGMA user_version").await, 12);
}

async fn deposits(db: &Database) {
    let claim = take(db).await.claim;
    deliver(db, claim, 1).await;
}

/// R4. Red when `OpenFile` is not asked.
#[tokio::test]
async fn a_file_is_open_once_in_a_process_and_again_after_close() {
    let fixture = fixture().await;
    let path = fixture.dir.path().join("service.db");
    let roundabout = fixture.dir.path().join("x/../service.db");
    std::fs::create_dir(fixture.dir.path().join("x")).unwrap();
    for path in [&path, &roundabout] {
        let error = Database::open(path, SCHEMA).await.unwrap_err();
        assert!(matches!(error, DatabaseError::AlreadyOpen { .. }), "{error}");
    }
    fixture.db.close().await;
    assert!(matches!(fixture.db.write(|_| Ok(())).await, Err(DatabaseError::Closed { .. })));
    assert!(matches!(fixture.db.read(|_| Ok(())).await, Err(DatabaseError::Closed { .. })));
    Database::open(&path, SCHEMA).await.unwrap().close().await;
}

/// P12. Red when a schema that fails is passed over.
#[tokio::test]
async fn a_schema_that_does_not_apply_is_named() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("service.db");
    for schema in ["CREATE TABEL x (y)", "BEGIN; CREATE TABLE x (y)"] {
        let error = Database::open(&path, schema).await.unwrap_err();
        assert!(matches!(error, DatabaseError::Schema { .. }), "{error}");
    }
    Database::open(&path, SCHEMA).await.unwrap();
}

/// R4. Red when readers may write, or a failed write stays.
#[tokio::test]
async fn reads_cannot_write_and_failed_writes_leave_nothing() {
    let fixture = fixture().await;
    let db = &fixture.db;
    assert!(db.read(|conn| conn.execute("DELETE FROM account", [])).await.is_err());
    let failed = db
        .write(|conn| {
            deposit(conn, 5);
            conn.execute("INSERT INTO account VALUES (1, 1)", [])
        })
        .await;
    assert!(matches!(failed, Err(DatabaseError::Sql { .. })));
    assert_eq!(balance(db).await, 0);
}

/// A clock that a test moves.
#[derive(Clone, Default)]
struct Hand(std::sync::Arc<std::sync::atomic::AtomicI64>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}

/// P4. Marks by event id go after their retention, in pieces; marks by position do not. Red when `Housekeeping`
/// ignores `at`.
#[tokio::test]
async fn event_marks_go_after_their_retention() {
    let dir = tempfile::TempDir::new().unwrap();
    let clock = Hand::default();
    let retention = Duration::from_secs(1);
    let options = Database::options().event_marks(Some(retention)).clock(clock.clone());
    let db = options.open(dir.path().join("service.db"), SCHEMA).await.unwrap();
    assert_eq!(db.guarantee(), "position and event id for 1 second");
    let claim = take(&db).await.claim;
    for offset in 1..=3 {
        deliver(&db, claim, offset).await;
    }
    db.write(|conn| {
        conn.execute(
            "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 4500)
             INSERT INTO aqueduct_event_mark SELECT 1, randomblob(16), 5 FROM n",
            [],
        )
    })
    .await
    .unwrap();
    clock.0.store(1_500_000, std::sync::atomic::Ordering::Relaxed);
    deliver(&db, claim, 4).await;
    let gone = async {
        while number(&db, "SELECT count(*) FROM aqueduct_event_mark").await > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert!(matches!(db.begin(claim, 9, Some(event(4))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, 1, Some(event(1))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, 10, Some(event(1))).await.unwrap(), Begin::New(_)));
}
