//! Groups whose members are in several processes (R7).

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_core::{
    LogErrorKind, TopicName,
    log::{Assignment, CommitLog, Consumer, Settlement, Signal, Start, TopicSpec},
};
use aqueduct_embedded::EmbeddedLog;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::Signal as Kill;

use crate::{
    member::{Member, balanced, listen_until},
    tools::{PATIENCE, append_values, assert_kind, count, enqueue, keyed, name, open, options, path, sqlite},
};

/// Longer than any test: only the lock tells that a member is gone.
const LONG: Duration = Duration::from_secs(300);
/// How soon a killed member's partitions have new owners.
const SOON: Duration = Duration::from_secs(2);

async fn make(directory: &Path, partitions: i32) {
    let log = open(directory).await;
    let spec = TopicSpec { partitions: Some(partitions), ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    log.close().await.unwrap();
}

fn member_files(directory: &Path) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("log.db.member."))
        .count()
}

/// R7, P3, P9. Red when a change raises no version, a free lock does not end a member, leaving waits for others to
/// notice, or joining does not remove the dead first.
#[tokio::test]
async fn processes_share_a_group_and_take_over() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    make(at, 8).await;
    let mut given = BTreeSet::new();
    let mut members = vec![Member::start(at, LONG)];
    listen_until("the first", PATIENCE, &mut members, &mut given, balanced);
    members.push(Member::start(at, LONG));
    listen_until("sharing by two", PATIENCE, &mut members, &mut given, balanced);
    members.push(Member::start(at, LONG));
    listen_until("sharing by three", PATIENCE, &mut members, &mut given, balanced);
    assert_eq!(member_files(at), 3);
    let database = sqlite(&path(at));
    assert_eq!(count(&database, "SELECT count(DISTINCT owner) FROM group_partition"), 3);
    assert_eq!(
        count(&database, "SELECT count(*) FROM group_partition WHERE owner IS NOT NULL AND asked IS NULL"),
        8
    );

    members.remove(0).kill();
    let took = listen_until("taking over from a killed one", SOON, &mut members, &mut given, balanced);
    println!("partitions of a killed process have new owners after {took:?}");
    listen_until("removing its file", PATIENCE, &mut members, &mut given, |_| member_files(at) == 2);

    // The one that stays hears of it by the database alone, well before it would look after the group.
    let leaver = members.remove(0);
    leaver.close();
    let took = listen_until("taking over from one that closed", SOON, &mut members, &mut given, balanced);
    println!("partitions of a process that closed have a new owner {took:?} after it ended");
    assert!(members.iter().all(|member| !member.has_said("lost")), "nobody lost anything");
    assert_eq!(count(&database, "SELECT count(*) FROM group_member"), 1);
    members.remove(0).kill();

    // Who comes next has everything at once: it removes the dead before it is given anything.
    let mut members = vec![Member::start(at, LONG)];
    listen_until("the next one", PATIENCE, &mut members, &mut given, balanced);
    let signals = members[0].said.iter().filter(|said| said.starts_with("assigned")).count();
    assert_eq!(signals, 1, "{:?}", members[0].said);
    assert_eq!(count(&database, "SELECT count(*) FROM group_member"), 1);
    members.remove(0).kill();
}

/// Stops a member where it is not writing: one that is stopped inside a write transaction holds up everybody, and no
/// lease can help.
fn stop(directory: &Path, member: &Member) {
    let file = fs::File::open(directory.join("log.db.writer")).unwrap();
    loop {
        member.signal(Kill::STOP);
        // Others hold it for a moment.
        let deadline = Instant::now() + Duration::from_millis(200);
        while Instant::now() < deadline {
            if file.try_lock().is_ok() {
                return file.unlock().unwrap();
            }
        }
        member.signal(Kill::CONT);
    }
}

/// R7, P9. Red when no heartbeat expires, the settlement of a woken member is checked by its generation in memory, or a
/// member that was removed does not join again.
#[tokio::test]
async fn a_paused_process_is_taken_over_and_its_work_is_refused() {
    const SESSION: Duration = Duration::from_secs(1);
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    make(at, 8).await;
    let mut given = BTreeSet::new();
    let mut members: Vec<_> = (0..3).map(|_| Member::start(at, SESSION)).collect();
    listen_until("sharing", PATIENCE, &mut members, &mut given, balanced);

    let mut paused = members.remove(0);
    let held: Vec<String> =
        paused.owns.iter().map(|(partition, generation)| format!("{partition}:{generation}")).collect();
    assert!(held.len() >= 2);
    stop(at, &paused);
    let took = listen_until("taking over", SESSION + SOON, &mut members, &mut given, balanced);
    println!("partitions of a stopped process have new owners after {took:?}, the session is {SESSION:?}");
    // It finds these when it wakes, before it hears of anything.
    for at in &held {
        paused.order(&format!("settle {at}"));
        paused.order(&format!("commit {at}"));
    }
    paused.signal(Kill::CONT);
    members.push(paused);
    let count_of = |member: &Member, line: &str| member.said.iter().filter(|said| *said == line).count();
    listen_until("refusing its work", PATIENCE, &mut members, &mut given, |members| {
        let refused = |what| count_of(&members[2], &format!("{what} StaleGeneration")) == held.len();
        refused("settle") && refused("commit")
    });
    listen_until("sharing again", PATIENCE, &mut members, &mut given, |members| {
        members[2].has_said("lost") && balanced(members)
    });
    let database = sqlite(&path(at));
    assert_eq!(count(&database, "SELECT count(*) FROM record"), 0, "a zombie wrote nothing");
    assert_eq!(count(&database, "SELECT count(*) FROM group_partition WHERE settled IS NOT NULL"), 0);
    assert_eq!(count(&database, "SELECT count(*) FROM group_member"), 3);
    // Its work under the new generation is its own again.
    let (partition, generation) = members[2].owns.first_key_value().map(|(p, g)| (*p, *g)).unwrap();
    members[2].order(&format!("commit {partition}:{generation}"));
    listen_until("its new work", PATIENCE, &mut members, &mut given, |members| {
        members[2].has_said("commit ok")
    });
    members.into_iter().for_each(Member::close);
    assert_eq!((member_files(at), count(&database, "SELECT count(*) FROM group_member")), (0, 0));
}

/// R7, P3, P9. Red when a generation is raised outside the transaction that gives the partition. Processes join, close and
/// are killed at random moments; no partition is ever given twice under one generation, and in the end all are owned.
#[tokio::test]
async fn churn_of_processes_gives_no_generation_twice() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    make(at, 8).await;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut given = BTreeSet::new();
    let mut members = Vec::new();
    for _ in 0..12 {
        members.push(Member::start(at, LONG));
        let moment = Instant::now() + Duration::from_millis(random.random_range(0..300));
        listen_until("a moment", PATIENCE, &mut members, &mut given, |_| Instant::now() >= moment);
        if members.len() == 4 {
            let leaver = members.remove(random.random_range(0..4));
            if random.random_bool(0.6) { leaver.kill() } else { leaver.close() }
        }
    }
    listen_until("coming to rest", PATIENCE, &mut members, &mut given, balanced);
    for member in &members {
        for (partition, generation) in &member.owns {
            let newest = given.range(..=(*partition, i64::MAX)).next_back();
            assert_eq!(newest, Some(&(*partition, *generation)), "the owner has the newest generation");
        }
    }
    listen_until("removing files", PATIENCE, &mut members, &mut given, |members| {
        member_files(at) == members.len()
    });
    members.into_iter().for_each(Member::kill);
}

async fn two(directory: &Path, session: Duration) -> [Arc<EmbeddedLog>; 2] {
    let options = || options(directory).partitions(2).session(session);
    let logs =
        [EmbeddedLog::open(options()).await.unwrap(), EmbeddedLog::open(options().apart()).await.unwrap()];
    logs[0].ensure_topic(TopicSpec::new(name("t"))).await.unwrap();
    logs
}

async fn join(log: &EmbeddedLog, topics: &[TopicName]) -> Arc<dyn Consumer> {
    log.consumer("g", topics).await.unwrap()
}

async fn signal(consumer: &Arc<dyn Consumer>) -> Signal {
    tokio::time::timeout(PATIENCE, consumer.signal()).await.expect("a signal").unwrap()
}

async fn assigned(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Assignment> {
    let mut all = Vec::new();
    while all.len() < count {
        match signal(consumer).await {
            Signal::Assigned(some) => all.extend(some),
            other => panic!("Assigned was expected, not {other:?}"),
        }
    }
    all
}

async fn settle(consumer: &Arc<dyn Consumer>, of: &Assignment) -> Result<(), aqueduct_core::LogError> {
    let settlement = Settlement {
        partition: of.partition.clone(),
        generation: of.generation,
        offset: 0,
        metadata: String::new(),
    };
    consumer.settle(vec![settlement]).await.remove(0)
}

/// R7, P10. Red when a partition that was asked for is waited for without end, or more than it is taken.
#[tokio::test]
async fn a_partition_that_is_not_given_back_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let [here, there] = two(directory.path(), Duration::from_millis(500)).await;
    let silent = join(&here, &[name("t")]).await;
    let old = assigned(&silent, 2).await;
    let next = join(&there, &[name("t")]).await;
    let Signal::Revoking(asked) = signal(&silent).await else { panic!("Revoking was expected") };
    let new = assigned(&next, 1).await.remove(0);
    assert_eq!(asked, std::slice::from_ref(&new.partition));
    let Signal::Lost(lost) = signal(&silent).await else { panic!("Lost was expected") };
    assert_eq!(lost, asked);
    let (taken, kept) =
        if old[0].partition == new.partition { (&old[0], &old[1]) } else { (&old[1], &old[0]) };
    // An answer comes too late to take it from its new owner.
    silent.revoked(&asked);
    assert_kind(settle(&silent, taken).await, LogErrorKind::StaleGeneration);
    settle(&silent, kept).await.unwrap();
    settle(&next, &new).await.unwrap();
}

/// R7, P10. Red when a member whose leave could not be stored stays the owner for as long as its process lives. A foreign
/// tool holds SQLite's lock for longer than the log waits for it.
#[tokio::test]
async fn a_leave_that_fails_ends_the_member_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let [log, _] = two(directory.path(), LONG).await;
    let leaver = join(&log, &[name("t")]).await;
    assigned(&leaver, 2).await;
    let other = join(&log, &[name("t")]).await;
    let Signal::Revoking(asked) = signal(&leaver).await else { panic!("Revoking was expected") };
    leaver.revoked(&asked);
    let old = assigned(&other, 1).await.remove(0);
    let producer = log.producer().await.unwrap();
    let tool = rusqlite::Connection::open(path(directory.path())).unwrap();
    tool.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop(leaver);
    // Of the same commit.
    let beside = enqueue(&producer, vec![keyed("k", "beside")]).await.unwrap().remove(0);
    assert_kind(beside, LogErrorKind::Storage);
    tool.execute_batch("ROLLBACK").unwrap();
    let Signal::Lost(_) = signal(&other).await else { panic!("Lost was expected") };
    let all = assigned(&other, 2).await;
    assert!(all.iter().any(|one| one.partition == old.partition && one.generation > old.generation));
    assert_eq!((member_files(directory.path()), count(&tool, "SELECT count(*) FROM group_member")), (1, 1));
}

/// R7, P10: kill -9 between any two lines. Red when `balance` keeps an owner without a row, a row without a file counts,
/// or files without rows stay.
#[tokio::test]
async fn whatever_a_crash_left_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let log = open(at).await;
    let spec = TopicSpec { partitions: Some(4), ..TopicSpec::new(name("t")) };
    log.ensure_topic(spec).await.unwrap();
    let tool = rusqlite::Connection::open(path(at)).unwrap();
    tool.execute_batch(
        "INSERT INTO group_member(id, group_name, topics, file, session_ms) VALUES
           (7, 'g', 't', 'killed-after-its-row', 10000), (8, 'g', 't', 'its-file-is-gone', 10000);
         INSERT INTO group_partition(group_name, partition_id, generation, settled, metadata, owner, asked) VALUES
           ('g', 1, 5, NULL, '', 7, NULL), ('g', 2, 5, NULL, '', 8, 1), ('g', 3, 5, NULL, '', 99, NULL),
           ('g', 4, 5, NULL, '', NULL, NULL);",
    )
    .unwrap();
    for token in ["killed-after-its-row", "killed-before-its-row"] {
        fs::write(at.join(format!("log.db.member.{token}")), "").unwrap();
    }
    let consumer = join(&log, &[name("t")]).await;
    let all = assigned(&consumer, 4).await;
    assert!(all.iter().all(|one| one.generation == 6), "{all:?}");
    assert_eq!(member_files(at), 1, "its own");
    assert_eq!(count(&tool, "SELECT count(*) FROM group_member WHERE id > 8"), 1);
    // A row that others removed: the member joins again, under a number of its own.
    tool.execute_batch("DELETE FROM group_member; UPDATE group_version SET version = version + 1").unwrap();
    let Signal::Lost(lost) = signal(&consumer).await else { panic!("Lost was expected") };
    assert_eq!(lost.len(), 4);
    let again = assigned(&consumer, 4).await;
    assert!(again.iter().all(|one| one.generation == 7), "{again:?}");
    assert_kind(settle(&consumer, &all[0]).await, LogErrorKind::StaleGeneration);
    settle(&consumer, &again[0]).await.unwrap();
    // Somebody removed its file: others think that it is dead, so it makes another one when it joins again.
    let file = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("log.db.member."))
        .unwrap();
    fs::remove_file(file).unwrap();
    let other = EmbeddedLog::open(options(at).apart()).await.unwrap();
    let second = join(&other, &[name("t")]).await;
    assert_eq!(assigned(&second, 4).await.len(), 4);
    let Signal::Lost(_) = signal(&consumer).await else { panic!("Lost was expected") };
    let Signal::Revoking(asked) = signal(&second).await else { panic!("Revoking was expected") };
    second.revoked(&asked);
    assert_eq!(assigned(&consumer, 2).await.len(), 2);
    assert_eq!(member_files(at), 2);
}

/// R7, P9. Red when only the row of a member goes: who wakes would settle what nobody else reads.
#[tokio::test]
async fn a_removed_member_owns_nothing_where_nobody_follows_either() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    for topic in ["t", "u"] {
        log.ensure_topic(TopicSpec { partitions: Some(1), ..TopicSpec::new(name(topic)) }).await.unwrap();
    }
    let tool = rusqlite::Connection::open(path(directory.path())).unwrap();
    tool.execute_batch(
        "INSERT INTO group_member(id, group_name, topics, file, session_ms) VALUES (7, 'g', 't', 'killed', 10000);
         INSERT INTO group_partition(group_name, partition_id, generation, settled, metadata, owner, asked)
           SELECT 'g', p.id, 5, NULL, '', 7, NULL FROM partition p JOIN topic t ON t.id = p.topic_id WHERE t.name = 't';",
    )
    .unwrap();
    let consumer = join(&log, &[name("u")]).await;
    assert_eq!(assigned(&consumer, 1).await[0].partition.topic, name("u"));
    assert_eq!(count(&tool, "SELECT count(*) FROM group_member WHERE id = 7"), 0);
    assert_eq!(count(&tool, "SELECT count(*) FROM group_partition WHERE owner = 7"), 0);
}

/// R7: a format has one reader. Red when an older file is not brought up to date, loses something on the way, or is
/// changed under a program that does not know the change.
#[tokio::test]
async fn a_file_of_format_1_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let log = open(at).await;
    append_values(&log, 0..3).await;
    let consumer = join(&log, &[name("t")]).await;
    let mut all = assigned(&consumer, 1).await;
    let settlement = Settlement {
        partition: all[0].partition.clone(),
        generation: all[0].generation,
        offset: 2,
        metadata: String::new(),
    };
    consumer.settle(vec![settlement]).await.remove(0).unwrap();
    consumer.close().await.unwrap();
    log.close().await.unwrap();
    let tool = rusqlite::Connection::open(path(at)).unwrap();
    tool.execute_batch(
        "DROP TABLE group_member; DROP TABLE group_version;
         ALTER TABLE group_partition DROP COLUMN owner; ALTER TABLE group_partition DROP COLUMN asked;
         PRAGMA user_version = 1;",
    )
    .unwrap();
    let held = fs::File::open(at.join("log.db.highwater.0")).unwrap();
    held.lock().unwrap();
    let message = assert_kind(EmbeddedLog::open(options(at)).await, LogErrorKind::Unreachable);
    assert!(message.contains("a process of the older program has it open"), "{message}");
    assert_eq!(count(&tool, "SELECT user_version FROM pragma_user_version"), 1);
    held.unlock().unwrap();
    let log = open(at).await;
    assert_eq!(count(&tool, "SELECT user_version FROM pragma_user_version"), 2);
    let consumer = join(&log, &[name("t")]).await;
    all.extend(assigned(&consumer, 1).await);
    assert_eq!(
        (all[1].settled.as_ref().map(|settled| settled.offset), all[1].generation),
        (Some(2), all[0].generation + 1)
    );
    let starts = vec![(all.remove(1), Start::Offset(2))];
    let mut readers = consumer.assign(starts).await.unwrap();
    assert_eq!(readers[0].read(10).await.unwrap().len(), 1);
    assert_eq!(append_values(&log, 3..4).await, [3]);
}
