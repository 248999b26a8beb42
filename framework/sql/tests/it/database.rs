//! P12, P1: opening, closing, reading.

use std::time::Duration;

use aqueduct_core::{
    Timestamp,
    effects::{Begin, Claim, Effects, Place},
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

impl Hand {
    fn set(&self, micros: i64) {
        self.0.store(micros, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A retention of seven seconds on a clock that stands at 0, with a claim.
async fn with_marks() -> (Database, Hand, Claim, tempfile::TempDir) {
    let dir = tempfile::TempDir::new().unwrap();
    let clock = Hand::default();
    let options = Database::options().event_marks(Some(Duration::from_secs(7))).clock(clock.clone());
    let db = options.open(dir.path().join("service.db"), SCHEMA).await.unwrap();
    let claim = take(&db).await.claim;
    (db, clock, claim, dir)
}

const SECOND: i64 = 1_000_000;
const OLD: &str = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 4500)
     INSERT INTO aqueduct_event_mark SELECT 1, randomblob(16), 5 FROM n";

async fn mark_count(db: &Database) -> i64 {
    number(db, "SELECT count(*) FROM aqueduct_event_mark").await
}

/// P4. Marks by event id go after their retention, in pieces; marks by position do not. Red when `Housekeeping`
/// ignores `at`.
#[tokio::test]
async fn event_marks_go_after_their_retention() {
    let (db, clock, claim, _dir) = with_marks().await;
    assert_eq!(db.guarantee(), "position and event id for 7 seconds");
    db.write(|conn| conn.execute(OLD, [])).await.unwrap();
    // At work in each of these seconds. The ones before 2 s are past the retention at 9 s.
    for second in 0..=9 {
        clock.set(second * SECOND + 1);
        deliver(&db, claim, second).await;
    }
    let gone = async {
        while mark_count(&db).await > 8 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert_eq!(number(&db, "SELECT min(at) FROM aqueduct_event_mark").await, 2 * SECOND + 1);
    assert!(matches!(db.begin(claim, Place::Live(20), Some(event(2))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, Place::Live(1), Some(event(1))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, Place::Live(21), Some(event(1))).await.unwrap(), Begin::New(_)));
}

/// P4. A service that was down for longer than the retention still knows the event that it handled before, when its
/// copy comes at another position. Red when the clock alone ages marks (`oldest` for `bound.min(oldest)`), or a span
/// too few is kept.
#[tokio::test]
async fn marks_do_not_age_while_a_service_is_down() {
    let (db, clock, claim, _dir) = with_marks().await;
    for second in 0..=8 {
        clock.set(second * SECOND + 1);
        deliver(&db, claim, second).await;
    }
    // Its second subscription was at work all the time: each ages its own marks only.
    let mut other = scope(0);
    other.subscription = "recommendation".to_owned();
    let other = db.take(&other).await.unwrap().claim;
    for second in 100..=109 {
        clock.set(second * SECOND + 1);
        deliver(&db, other, second).await;
    }
    clock.set(1_000 * SECOND);
    deliver(&db, claim, 1_000).await;
    // Of each the marks in its newest eight spans stay; in the first these are 2 to 8 s, and 1,000 s.
    let done = async {
        while mark_count(&db).await > 8 + 8 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    assert!(matches!(db.begin(claim, Place::Live(1_001), Some(event(2))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, Place::Live(1_002), Some(event(8))).await.unwrap(), Begin::Ended));
}

/// P4, bounded growth. Red when `run` steps only while nobody waits.
#[tokio::test(flavor = "multi_thread")]
async fn marks_go_under_a_load_that_never_pauses() {
    let (db, clock, claim, _dir) = with_marks().await;
    db.write(|conn| conn.execute(OLD, [])).await.unwrap();
    for second in 0..=9 {
        clock.set(second * SECOND + 1);
        deliver(&db, claim, second).await;
    }
    // One turn or another is always waiting.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (db, stopped) = (db.clone(), stopped.clone());
        load.spawn(async move {
            while !*stopped.borrow() {
                db.write(|conn| conn.execute("UPDATE account SET balance = balance + 1", [])).await.unwrap();
            }
        });
    }
    let gone = async {
        while mark_count(&db).await > 8 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    stop.send(true).unwrap();
    load.join_all().await;
}

/// A closed database is one file. Red when the writer closes before the readers: the last connection can then not move
/// the write-ahead log into the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_leaves_no_write_ahead_log() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = aqueduct_sql::Database::open(&path, "CREATE TABLE IF NOT EXISTS t (n)").await.unwrap();
        db.write(|conn| conn.execute("INSERT INTO t VALUES (1)", [])).await.unwrap();
        let reads: Vec<_> = (0..8)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    db.read(|conn| conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()))).await
                })
            })
            .collect();
        db.close().await;
        for read in reads {
            // Read or refused as closed; either way nothing of it is left.
            let _ = read.await.unwrap();
        }
        assert!(!folder.path().join("a.db-wal").exists());
    }
}
