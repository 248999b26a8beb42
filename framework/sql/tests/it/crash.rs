//! P1, P4, P5: a process killed in the middle of transactions.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use aqueduct_core::effects::Effects;
use aqueduct_sql::Database;

use crate::support::*;

const CHILD: &str = "AQUEDUCT_SQL_CRASH_CHILD";
const ROUNDS: i64 = 10;
const LANES: i64 = 8;

/// Not a test of its own: what the killed process runs. It delivers for ever, and prints what was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let db = Database::open(path, SCHEMA).await.unwrap();
    let taken = take(&db).await;
    let next = taken.ended.last().map_or(0, |last| last + 1);
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        let db = db.clone();
        lanes.spawn(async move {
            for offset in (0..).map(|step| next + lane + step * LANES) {
                deliver(&db, taken.claim, offset).await;
                println!("\ncommitted {offset}");
            }
        });
    }
    lanes.join_all().await;
}

/// P1, P4, P5. Red when `synchronous` and the journal are off, when `commit` answers before COMMIT, or when marks,
/// state and staged events are written apart.
#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_said_and_halves_nothing() {
    let fixture = fixture().await;
    let path = fixture.dir.path().join("service.db");
    fixture.db.close().await;
    let mut said: BTreeSet<i64> = BTreeSet::new();
    for round in 1..=ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        while heard < 20 * round {
            let line = lines.next().unwrap().unwrap();
            if let Some(offset) = line.strip_prefix("committed ") {
                said.insert(offset.parse().unwrap());
                heard += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, and we had not read.
        for line in lines.map_while(Result::ok) {
            if let Some(offset) = line.strip_prefix("committed ").and_then(|offset| offset.parse().ok()) {
                said.insert(offset);
            }
        }

        let db = Database::open(&path, SCHEMA).await.unwrap();
        let taken = take(&db).await;
        let marked: BTreeSet<i64> = taken.ended.iter().copied().collect();
        assert!(said.is_subset(&marked), "round {round}: {:?}", said.difference(&marked));
        let count = i64::try_from(marked.len()).unwrap();
        assert_eq!(balance(&db).await, count);
        assert_eq!(number(&db, "SELECT count(*) FROM aqueduct_outbox").await, count);
        assert_eq!(number(&db, "SELECT count(*) FROM aqueduct_event_mark").await, count);
        assert_eq!(number(&db, "SELECT sum(count) FROM aqueduct_published").await, count);
        assert_eq!(db.outbox().await.unwrap().waiting, count);
        db.close().await;
    }
    assert!(said.len() > 1_000);
}
