//! A handler that never gives its transaction back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct::{Config, prelude::*};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "test.Asked", topic = "asked")]
struct Asked(String);

/// P9. Red when the subscriber waits for its settling, which waits for the database that the handler holds: the drain
/// then never reaches the handler.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_holds_its_transaction_for_ever_does_not_stop_the_drain() {
    async fn hold(_: Asked, State(begun): State<Arc<Notify>>, tx: Tx<Sqlite>) -> Handled {
        tx.execute("INSERT INTO held VALUES (1)", [])?;
        begun.notify_one();
        std::future::pending::<()>().await;
        drop(tx);
        Ok(())
    }
    let folder = tempfile::tempdir().unwrap();
    let bus = aqueduct::connect("memory:").await.unwrap();
    let database =
        Database::open(folder.path().join("held.db"), "CREATE TABLE IF NOT EXISTS held (n)").await.unwrap();
    bus.publish(&Asked("a".into())).await.unwrap();
    let settings = [("AQUEDUCT_DRAIN_DEADLINE_MS".into(), "300".into())];
    let begun = Arc::new(Notify::new());
    let app = App::builder("test")
        .log(&bus)
        .state(Arc::clone(&begun))
        .database(&database)
        .config(Config::load(None, settings).unwrap())
        .subscribe(Subscription::builder("test").on(hold))
        .build()
        .unwrap();
    let status = app.status();
    let shutdown = async {
        begun.notified().await;
        // Long enough for a round of settling to queue behind the handler.
        let waits = || status.subscriptions()[0].partitions.values().any(|partition| partition.in_flight > 0);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(600) || !waits() {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), app.run(shutdown)).await;
    ended.expect("it drains within its deadline").unwrap();
    let held: i64 = database
        .read(|conn| conn.query_row("SELECT count(*) FROM held", [], |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(held, 0, "what did not end was rolled back");
    database.close().await;
}
