//! Opening: what is refused, and with which words.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    sync::Arc,
};

use aqueduct_core::{
    LogErrorKind,
    log::{CommitLog, Start, TopicSpec},
};
use aqueduct_embedded::{EmbeddedLog, EmbeddedOptions};
use rusqlite::Connection;

use crate::tools::{
    PATIENCE, append_values, assert_kind, enqueue, environment, keyed, logged, name, open, options, path,
    read_to_end, try_open, until,
};

fn parse(url: &str) -> Result<EmbeddedOptions, aqueduct_core::LogError> {
    EmbeddedOptions::parse(url, environment())
}

/// P12. Red when a parameter is accepted and ignored, or a wrong value is.
#[test]
fn urls_are_read_or_refused() {
    let shown = format!("{:?}", parse("embedded:./shop.db?partitions=3&max_record_bytes=2000").unwrap());
    assert!(shown.contains(r#"path: "./shop.db", partitions: 3, max_record_bytes: 2000"#), "{shown}");
    let refused = |url| assert_kind(parse(url), LogErrorKind::Configuration);
    assert_eq!(
        refused("embedded:x.db?partition=3"),
        r#""embedded:x.db?..": unknown parameter "partition", did you mean "partitions"?"#
    );
    assert_eq!(
        refused("embedded:x.db?partitions=many"),
        r#""embedded:x.db?..": partitions must be a whole number, not "many""#
    );
    assert_eq!(refused("embedded:x.db?partitions=0"), "partitions must be from 1 to 1024, not 0");
    assert_eq!(
        refused("embedded:x.db?max_record_bytes=0"),
        "max_record_bytes must be from 1 to 268435456, not 0"
    );
    assert_eq!(refused("embedded:?partitions=3"), "the embedded log has no path: expected embedded:PATH");
    assert_eq!(refused("sqlite:x.db"), r#""sqlite:x.db": expected embedded:PATH"#);
}

/// P12. Red when the file's type or format version is not checked before anything is written to it.
#[tokio::test]
async fn files_that_are_not_ours_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = path(directory.path());
    let refused = async |expected: &str| {
        let before = fs::read(&file).unwrap();
        let message = assert_kind(try_open(directory.path()).await, LogErrorKind::Format);
        assert!(message.contains("log.db") && message.contains(expected), "{message}");
        assert_eq!(fs::read(&file).unwrap(), before, "not a byte of it changes");
        fs::remove_file(&file).unwrap();
    };
    fs::write(&file, "this is not a database, and long enough to be looked at ".repeat(40)).unwrap();
    refused("file is not a database").await;

    Connection::open(&file).unwrap().execute_batch("CREATE TABLE mine(x)").unwrap();
    refused("is a database of another program").await;

    open(directory.path()).await.close().await.unwrap();
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 3).unwrap();
    refused("has format version 3, this program knows versions up to 2").await;
}

/// R7. Red when `sound` is not called, or passes over one of the two tables.
#[tokio::test]
async fn a_flipped_bit_in_what_names_a_topic_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let file = path(directory.path());
    let log = open(directory.path()).await;
    log.ensure_topic(TopicSpec::new(name("sales"))).await.unwrap();
    log.close().await.unwrap();
    let whole = fs::read(&file).unwrap();
    let harmed = async |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        try_open(directory.path()).await
    };
    let places: Vec<usize> =
        whole.windows(5).enumerate().filter(|(_, bytes)| bytes == b"sales").map(|(at, _)| at).collect();
    assert!(places.len() >= 2, "the row and its index: {places:?}");
    for at in places {
        let message = assert_kind(harmed(at).await, LogErrorKind::Corrupt);
        assert!(message.contains("log.db: table topic is damaged"), "{message}");
    }
    // The numbers 0 and 1 are types of their own in SQLite's rows, 8 and 9: one partition becomes another.
    fs::write(&file, &whole).unwrap();
    let root: u32 = Connection::open(&file)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_master WHERE name = 'partition'", [], |row| row.get(0))
        .unwrap();
    let end = usize::try_from(root).unwrap() * 4_096;
    let numbers = (end - 32..end).filter(|at| [8, 9].contains(&whole[*at]));
    let mut named = 0;
    for at in numbers {
        if let Err(error) = harmed(at).await {
            named += usize::from(error.to_string().contains("table partition is damaged"));
        }
    }
    assert!(named > 0);
}

/// P12. Red when one of these is opened, or its error does not name the path.
#[tokio::test]
async fn places_that_are_not_fit_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = path(directory.path());
    let missing = EmbeddedOptions::new(directory.path().join("no/log.db"), environment());
    let message = assert_kind(EmbeddedLog::open(missing).await, LogErrorKind::Configuration);
    assert!(message.contains("no/log.db"), "{message}");
    let message = assert_kind(
        EmbeddedLog::open(EmbeddedOptions::new(directory.path(), environment())).await,
        LogErrorKind::Configuration,
    );
    assert!(message.contains("not a regular file"), "{message}");

    open(directory.path()).await.close().await.unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    let message = assert_kind(try_open(directory.path()).await, LogErrorKind::Unreachable);
    assert!(message.contains("log.db is read-only"), "{message}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();

    fs::hard_link(&file, directory.path().join("second.db")).unwrap();
    let message = assert_kind(try_open(directory.path()).await, LogErrorKind::Configuration);
    assert!(message.contains("log.db has 2 hard links"), "{message}");
}

/// R7: one owner per process. Red when the registry does not find the open instance, by whatever path.
#[tokio::test]
async fn opening_twice_gives_the_same_log() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).await;
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(path(directory.path()), &link).unwrap();
    let second = EmbeddedLog::open(EmbeddedOptions::new(&link, environment()).partitions(1)).await.unwrap();
    let other = EmbeddedLog::open(options(directory.path()).partitions(2)).await;
    let message = assert_kind(other, LogErrorKind::Configuration);
    assert!(message.contains("is open in this process with partitions = 1"), "{message}");
    append_values(&first, 0..2).await;
    assert_eq!(read_to_end(&second, Start::Earliest).await.unwrap().len(), 2);
    assert!(!directory.path().join("log.db.highwater.1").exists(), "a second owner would take a second file");
    first.close().await.unwrap();
    assert_kind(second.producer().await, LogErrorKind::Closed);
    let third = open(directory.path()).await;
    assert_eq!(read_to_end(&third, Start::Earliest).await.unwrap().len(), 2);
}

/// Red when a thread keeps the instance alive, so that its locks stay when every handle is gone.
#[tokio::test]
async fn dropping_every_handle_gives_the_files_back() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..2).await;
    let file = File::open(directory.path().join("log.db.highwater.0")).unwrap();
    assert!(file.try_lock().is_err(), "it is locked while the log is open");
    drop(log);
    until("giving the lock back", async || file.try_lock().is_ok()).await;
}

/// R7: a process that is stopped while it waits for its turn does not hold up the others, and loses its place to nobody
/// when it goes on. Red when the wait for the queue has no end. The test itself stands in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_in_the_queue_and_does_not_move_is_passed() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..1).await;
    let front = fs::File::open(directory.path().join("log.db.queue")).unwrap();
    front.lock().unwrap();
    let producer = log.producer().await.unwrap();
    for n in 0..5 {
        let receipt = enqueue(&producer, vec![keyed("k", &n.to_string())]);
        tokio::time::timeout(PATIENCE, receipt).await.expect("passing").unwrap().remove(0).unwrap();
    }
    front.unlock().unwrap();
    // The place that was kept behind it is given up: others find the queue free.
    until("leaving the queue", async || front.try_lock().is_ok()).await;
    front.unlock().unwrap();
    append_values(&log, 1..3).await;
    log.close().await.unwrap();
}

/// R7, P10: a process that stopped while it writes is named. Red when the wait is not looked at, or has no end at
/// open. The test itself holds the lock, under another process's number.
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_of_the_write_lock_is_named() {
    let logged = logged();
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..1).await;
    let file = fs::OpenOptions::new().write(true).open(directory.path().join("log.db.writer")).unwrap();
    file.lock().unwrap();
    fs::write(directory.path().join("log.db.writer"), "4242424   \n").unwrap();
    let producer = log.producer().await.unwrap();
    let mut receipt = enqueue(&producer, vec![keyed("k", "late")]);
    until("naming the holder", async || {
        assert!(receipt.try_recv().is_err(), "nothing is stored while the lock is held");
        logged.lock().unwrap().contains("process 4242424")
    })
    .await;
    file.unlock().unwrap();
    receipt.await.unwrap().remove(0).unwrap();
    log.close().await.unwrap();

    file.lock().unwrap();
    fs::write(directory.path().join("log.db.writer"), "4242424   \n").unwrap();
    let message = assert_kind(try_open(directory.path()).await, LogErrorKind::Unreachable);
    assert!(message.contains("process 4242424 has held the log's write lock"), "{message}");
    file.unlock().unwrap();
    let log = open(directory.path()).await;
    assert_eq!(read_to_end(&log, Start::Earliest).await.unwrap().len(), 2);
    drop(Arc::clone(&log));
}
