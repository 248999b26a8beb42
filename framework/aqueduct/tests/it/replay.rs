//! P7 with a database: new tables are filled from history, once.

use std::time::Duration;

use aqueduct::{Replay, ReplayError, SubscriptionError, core::log::Offset, prelude::*};

use super::positions::{Confirmed, Deposited, number, open, publish, until};

async fn apply(event: Deposited, tx: Tx<Sqlite>) -> Handled<Confirmed> {
    tx.execute("INSERT INTO applied VALUES (?1)", [event.number])?;
    Ok(Confirmed { number: event.number })
}

/// As [`apply`], and takes its time.
async fn apply_slowly(event: Deposited, tx: Tx<Sqlite>) -> Handled<Confirmed> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    apply(event, tx).await
}

fn rebuild(database: &Database) -> Replay<()> {
    Replay::builder("rebuild").on(apply).database(database).emit()
}

async fn bank() -> (tempfile::TempDir, Bus, Database) {
    let folder = tempfile::tempdir().unwrap();
    let log = format!("embedded:{}?partitions=3", folder.path().join("log.db").display());
    let bus = aqueduct::connect(&log).await.unwrap();
    let database = open(&folder.path().join("bank.db")).await;
    (folder, bus, database)
}

const APPLIED: &str = "SELECT count(*) FROM applied";

/// P4, P7. A number that is applied twice breaks the table's key. Red when what ended before a run was dropped is not known to
/// the next one, or a replay that is over begins anew.
#[tokio::test]
async fn new_tables_are_filled_once_though_the_replay_is_killed() {
    let (_folder, bus, database) = bank().await;
    publish(&bus, 0..2_000).await;
    for life in 1..4 {
        let some = async || number(&database, APPLIED).await >= life * 200;
        tokio::select! {
            replayed = rebuild(&database).run(&bus, ()) => drop(replayed.unwrap()),
            () = until("some are applied", some) => {}
        }
    }
    rebuild(&database).run(&bus, ()).await.unwrap();
    let sums = "SELECT count(*) * 1000000 + sum(number) FROM applied";
    assert_eq!(number(&database, sums).await, 2_000 * 1_000_000 + 1_999 * 1_000);
    assert_eq!(number(&database, "SELECT count(*) FROM aqueduct_outbox").await, 2_000);
    publish(&bus, 2_000..2_010).await;
    let replayed = rebuild(&database).run(&bus, ()).await.unwrap();
    let offsets: Offset = replayed.ranges.values().map(|range| range.end - range.start).sum();
    assert_eq!((replayed.ended, offsets), (10, 10));
    let settled = "SELECT sum(settled) FROM aqueduct_position WHERE subscription = 'rebuild'";
    assert_eq!(number(&database, settled).await, 2_010);
}

/// R4, R7. Red when the older run takes the position back, or both go on.
#[tokio::test]
async fn a_second_run_of_a_replay_takes_over_from_the_first() {
    let (_folder, bus, database) = bank().await;
    publish(&bus, 0..200).await;
    let first = Replay::builder("rebuild").on(apply_slowly).database(&database).emit();
    let (its_bus, watched) = (bus.clone(), database.clone());
    let first = tokio::spawn(async move { first.run(&its_bus, ()).await });
    until("the first has begun", async || number(&watched, APPLIED).await >= 5).await;
    rebuild(&database).run(&bus, ()).await.unwrap();
    let stopped = first.await.unwrap().unwrap_err();
    assert!(
        matches!(&stopped, ReplayError::Stopped { reason, .. } if reason.contains("a newer owner has it")),
        "{stopped}"
    );
    assert_eq!(number(&database, APPLIED).await, 200);
}

/// P7. Red when the effects of a transaction are done again without a word.
#[tokio::test]
async fn effects_in_a_transaction_are_repeated_only_where_that_is_said() {
    let (_folder, bus, database) = bank().await;
    publish(&bus, 0..1).await;
    let muted = Replay::builder("rebuild").on(apply).database(&database).run(&bus, ()).await.unwrap_err();
    assert!(matches!(muted, ReplayError::Transaction { .. }), "{muted}");
    let without = Replay::builder("rebuild").on(apply).emit().run(&bus, ()).await.unwrap_err();
    assert!(matches!(without, ReplayError::Declaration(SubscriptionError::Database { .. })), "{without}");
    let twice = rebuild(&database).checkpoint().run(&bus, ()).await.unwrap_err();
    assert!(matches!(twice, ReplayError::TwoCheckpoints { .. }), "{twice}");
    assert_eq!(number(&database, APPLIED).await, 0);
}
