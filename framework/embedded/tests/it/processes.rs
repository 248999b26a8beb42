//! Several processes: killed, side by side, and with a disk that fails. The child is this test binary.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use aqueduct_core::{
    LogErrorKind, Record,
    log::{CommitLog, Signal, Start, TopicSpec},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::tools::{
    PATIENCE, append, append_values, assert_kind, enqueue, keyed, name, open, path, read_to_end, sqlite,
    text, zero,
};

const ROLE: &str = "AQUEDUCT_TEST_ROLE";
const DIRECTORY: &str = "AQUEDUCT_TEST_DIRECTORY";

/// Not a test: what the other tests start in a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests"]
async fn child() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let role = std::env::var(ROLE).unwrap();
    // Ends the line that the test harness began.
    println!();
    match role.split_once(' ') {
        Some(("append", id)) => child_append(Path::new(&directory), id).await,
        Some(("member", session)) => crate::member::child_member(Path::new(&directory), session).await,
        Some(("fill", _)) => child_fill(Path::new(&directory)).await,
        Some(("note", _)) => child_note(Path::new(&directory)).await,
        other => panic!("{other:?} is no role"),
    }
}

/// Appends small batches for ever, some in flight at once, and says what was acknowledged.
async fn child_append(directory: &Path, id: &str) {
    let log = open(directory).await;
    let producer = log.producer().await.unwrap();
    let mut n = 0;
    loop {
        let receipts: Vec<_> = (0..8)
            .map(|_| {
                let batch = (0..3).map(|_| {
                    n += 1;
                    keyed(id, &format!("{id}:{n}"))
                });
                enqueue(&producer, batch.collect())
            })
            .collect();
        let mut acknowledged = String::new();
        let mut last = n - 24;
        for receipt in receipts {
            for outcome in receipt.await.unwrap() {
                last += 1;
                acknowledged.push_str(&format!("ack {} {id}:{last}\n", outcome.unwrap().offset));
            }
        }
        std::io::stdout().write_all(acknowledged.as_bytes()).unwrap();
    }
}

/// Fills the disk: the shell that started it limits the size of files, which SQLite meets as an I/O error.
async fn child_fill(directory: &Path) {
    let log = open(directory).await;
    let producer = log.producer().await.unwrap();
    log.ensure_topic(TopicSpec::new(name("t"))).await.unwrap();
    let consumer = log.consumer("g", &[name("t")]).await.unwrap();
    assert!(matches!(consumer.signal().await, Ok(Signal::Assigned(_))));
    let mut n = 0;
    let error = loop {
        match enqueue(&producer, vec![keyed("k", &format!("{n}:{}", "x".repeat(20_000)))])
            .await
            .unwrap()
            .remove(0)
        {
            Ok(position) => println!("ack {} {n}", position.offset),
            Err(error) => break error,
        }
        n += 1;
    };
    assert_eq!(error.kind(), LogErrorKind::Storage, "{error}");
    // P1: never again, though there would be room for so small a record.
    for _ in 0..3 {
        let again = enqueue(&producer, vec![keyed("other", "small")]).await.unwrap().remove(0).unwrap_err();
        assert_eq!(again.kind(), LogErrorKind::Storage);
        assert!(again.to_string().contains("a write to the disk failed"), "{again}");
    }
    // P9: what this process owns it could never settle; others can.
    let told = tokio::time::timeout(PATIENCE, consumer.signal()).await.expect("a signal");
    assert_kind(told, LogErrorKind::Storage);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!files.map(|file| file.into_string().unwrap()).any(|file| file.contains(".member.")));
    assert_kind(log.close().await, LogErrorKind::Storage);
    println!("poisoned");
}

/// Commits what the high-water file has no room for.
async fn child_note(directory: &Path) {
    let log = open(directory).await;
    let producer = log.producer().await.unwrap();
    let first = enqueue(&producer, vec![keyed("k", "stored")]).await.unwrap().remove(0);
    let message = assert_kind(first, LogErrorKind::UnknownOutcome);
    assert!(message.contains("log.db: the high-water file"), "{message}");
    let next = enqueue(&producer, vec![keyed("other", "not stored")]).await.unwrap().remove(0);
    assert_kind(next, LogErrorKind::Storage);
    assert_kind(log.close().await, LogErrorKind::Storage);
    println!("poisoned");
}

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(role: &str, directory: &Path) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), role, directory)
    }

    fn run(mut command: Command, role: &str, directory: &Path) -> Self {
        let mut child = command
            .args(["--exact", "processes::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next whole line, or none at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    }

    fn wait_for(&mut self, expected: &str) {
        while self.line().unwrap_or_else(|| panic!("the child ended without {expected:?}")) != expected {}
    }

    /// Reads acknowledgements, up to `most`.
    fn acknowledged(&mut self, into: &mut BTreeMap<i64, String>, most: usize) {
        let mut taken = 0;
        while taken < most {
            let Some(line) = self.line() else { return };
            let Some(ack) = line.strip_prefix("ack ") else { continue };
            let (offset, id) = ack.split_once(' ').unwrap();
            let before = into.insert(offset.parse().unwrap(), id.to_owned());
            assert_eq!(before, None, "offset {offset} was acknowledged twice");
            taken += 1;
        }
    }

    /// Kills it (SIGKILL) and reads what it said before.
    fn kill(mut self, acknowledged: &mut BTreeMap<i64, String>) {
        self.child.kill().unwrap();
        self.acknowledged(acknowledged, usize::MAX);
        self.child.wait().unwrap();
    }
}

/// Looks at the file with SQLite itself: every acknowledged record is there at its offset, each id once, ids of a
/// process without a gap, offsets without a gap.
fn check(directory: &Path, acknowledged: &BTreeMap<i64, String>) -> usize {
    let connection = sqlite(&path(directory));
    let mut statement =
        connection.prepare("SELECT id & 0xffffffffff, value FROM record ORDER BY id").unwrap();
    let stored: Vec<(i64, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, String::from_utf8(row.get(1)?).unwrap())))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let next: i64 = connection.query_row("SELECT next_offset FROM partition", [], |row| row.get(0)).unwrap();
    assert_eq!(stored.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..next).collect::<Vec<_>>());
    let by_offset: BTreeMap<_, _> = stored.iter().cloned().collect();
    for (offset, id) in acknowledged {
        assert_eq!(by_offset.get(offset), Some(id), "acknowledged, at offset {offset}");
    }
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for (offset, value) in &stored {
        let (process, n) = value.split_once(':').unwrap();
        let last = last.entry(process).or_default();
        assert_eq!(n.parse::<i64>().unwrap(), *last + 1, "of {process}, at offset {offset}");
        *last += 1;
    }
    let distinct: BTreeSet<_> = stored.iter().map(|(_, value)| value).collect();
    assert_eq!(distinct.len(), stored.len(), "each id once");
    stored.len()
}

/// P1. Red when a receipt comes before the commit. Ten kills at random moments, on one file.
#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(rand::rng().random());
    let mut acknowledged = BTreeMap::new();
    for round in 0..10 {
        let mut process = Process::start(&format!("append r{round}"), directory.path());
        process.acknowledged(&mut acknowledged, random.random_range(1..600));
        process.kill(&mut acknowledged);
        let stored = check(directory.path(), &acknowledged);
        assert!(stored >= acknowledged.len());
    }
    let log = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let log = open(directory.path()).await;
        assert_eq!(log.lost_ranges(), [], "a kill loses nothing");
        let read = read_to_end(&log, Start::Earliest).await.unwrap();
        assert!(read.len() >= acknowledged.len());
        log
    });
    drop(log);
}

/// P1, P2, R7. Red when the next offset is remembered across transactions instead of read in each.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_file_and_one_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let [mut a, mut b] = ["append a", "append b"].map(|role| Process::start(role, directory.path()));
    a.acknowledged(&mut acknowledged, 500);
    b.acknowledged(&mut acknowledged, 500);
    a.kill(&mut acknowledged);
    // The other goes on, and this process reads what it writes while it does.
    b.acknowledged(&mut acknowledged, 500);
    let log = open(directory.path()).await;
    let mut reader = log.cursor(&zero("t"), Start::Latest).await.unwrap();
    let batch =
        tokio::time::timeout(PATIENCE, reader.read(10)).await.expect("another process's commit").unwrap();
    let read = text(&Record::all(&batch).next().unwrap());
    assert!(read.starts_with("b:"), "{read}");
    let ours = append(&log, vec![keyed("c", "c:1")]).await[0].offset;
    acknowledged.insert(ours, "c:1".to_owned());
    b.acknowledged(&mut acknowledged, 100);
    b.kill(&mut acknowledged);
    assert!(check(directory.path(), &acknowledged) >= 1_601);
    assert_eq!(log.lost_ranges(), []);
}

/// P1, P9. Red when `note_failure` does not poison, or its members go on beating. The limit on file sizes fails the writes of the write-ahead log.
#[tokio::test]
async fn after_a_failed_write_nothing_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes, or of 1,024 in some shells.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap "" XFSZ; ulimit -f 1000; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap());
    let mut process = Process::run(shell, "fill it", directory.path());
    let mut acknowledged = BTreeMap::new();
    let mut poisoned = false;
    while let Some(line) = process.line() {
        poisoned |= line == "poisoned";
        if let Some((offset, n)) = line.strip_prefix("ack ").and_then(|ack| ack.split_once(' ')) {
            acknowledged.insert(offset.parse::<i64>().unwrap(), n.to_owned());
        }
    }
    assert!(process.child.wait().unwrap().success() && poisoned, "the child's own assertions");
    assert!(acknowledged.len() > 3, "{}", acknowledged.len());
    let log = open(directory.path()).await;
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    assert!(records.len() >= acknowledged.len());
    for (record, (offset, n)) in records.iter().zip(&acknowledged) {
        assert_eq!(record.offset(), *offset);
        assert!(text(record).starts_with(&format!("{n}:")));
    }
    append_values(&log, 0..1).await;
}

/// P1. Red when a failed note is told as `Storage` (the records are stored, so a caller would send them twice), or does
/// not poison. The partition's high id puts its slot beyond the limit on file sizes.
#[tokio::test]
async fn a_commit_that_could_not_be_noted_is_an_unknown_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    log.ensure_topic(TopicSpec { partitions: Some(1), ..TopicSpec::new(name("t")) }).await.unwrap();
    log.close().await.unwrap();
    let tool = rusqlite::Connection::open(path(directory.path())).unwrap();
    tool.execute("UPDATE partition SET id = 1000000", []).unwrap();
    drop(tool);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap "" XFSZ; ulimit -f 4000; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap());
    let mut process = Process::run(shell, "note it", directory.path());
    process.wait_for("poisoned");
    assert!(process.child.wait().unwrap().success(), "the child's own assertions");
    let log = open(directory.path()).await;
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    assert_eq!(records.iter().map(text).collect::<Vec<_>>(), ["stored"]);
}
