//! Whole programs that fail on command, and failures by chance.

use std::time::Duration;

use aqueduct_core::{
    LogErrorKind,
    log::{CommitLog, Signal, Start, TopicSpec},
};
use aqueduct_memory::{Chances, MemoryLog};
use tokio::time::{Instant, timeout};

use crate::tools::{append, assigned, enqueue, join, record, settlement, signal, topic, values};

const WHILE: Duration = Duration::from_secs(5);

/// P1, P9. Red when a killed program can still write or settle, or its partitions stay with it.
#[tokio::test]
async fn a_killed_program_writes_nothing_more_and_is_taken_over() {
    let log = MemoryLog::new(2);
    append(&log, vec![record("a", "1")]).await;
    let (first, second) = (log.process(), log.process());
    let dying = join(&first).await;
    let old = assigned(&dying).await;
    let producer = first.producer().await.unwrap();
    let living = join(&second).await;
    log.faults().crash(&first);

    let mut unheard = enqueue(&producer, vec![record("a", "2")]);
    assert_eq!(assigned(&living).await.len(), 2);
    let error = dying.settle(vec![settlement(&old[0], 0)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Closed);
    assert_eq!(dying.signal().await.unwrap_err().kind(), LogErrorKind::Closed);
    assert_eq!(first.end_offsets(&topic()).await.unwrap_err().kind(), LogErrorKind::Closed);
    assert!(unheard.try_recv().is_err(), "nobody is left to be told");
    assert_eq!(log.end_offsets(&topic()).await.unwrap().iter().sum::<i64>(), 1, "the second is not stored");
}

/// P9. Red when what a paused program asks for is done while it is paused, or under the old generation afterwards.
#[tokio::test(start_paused = true)]
async fn a_paused_program_wakes_to_a_newer_generation() {
    let log = MemoryLog::new(1);
    append(&log, vec![record("a", "1")]).await;
    let (sleeper, other) = (log.process(), log.process());
    let paused = join(&sleeper).await;
    let old = assigned(&paused).await.remove(0);
    let mut dead_letters = sleeper.transactional_producer("dead").await.unwrap();
    let producer = sleeper.producer().await.unwrap();
    let next = join(&other).await;
    log.faults().pause(&sleeper);
    log.faults().expire(&sleeper);
    let new = assigned(&next).await.remove(0);
    assert!(new.generation > old.generation);

    let settle = paused.settle(vec![settlement(&old, 1)]);
    tokio::pin!(settle);
    let settled = (paused.group_token(), vec![settlement(&old, 1)]);
    let commit = dead_letters.commit(vec![record("a", "letter")], Some(settled));
    tokio::pin!(commit);
    let mut late = enqueue(&producer, vec![record("a", "2")]);
    assert!(timeout(WHILE, settle.as_mut()).await.is_err(), "it waits");
    assert!(timeout(WHILE, commit.as_mut()).await.is_err(), "it waits");
    assert!(late.try_recv().is_err());
    assert_eq!(values(&log).await, ["1"]);

    log.faults().resume(&sleeper);
    assert_eq!(settle.await.remove(0).unwrap_err().kind(), LogErrorKind::StaleGeneration);
    assert_eq!(commit.await.unwrap_err().kind(), LogErrorKind::StaleGeneration);
    late.await.unwrap().remove(0).unwrap();
    assert_eq!(values(&log).await, ["1", "2"]);
    let Signal::Lost(lost) = signal(&paused).await else { panic!("a loss was expected") };
    assert_eq!(lost, std::slice::from_ref(&old.partition));
    // It joins again by itself, and gets the partition once the other leaves.
    assert!(timeout(WHILE, paused.signal()).await.is_err());
    next.close().await.unwrap();
    assert!(assigned(&paused).await.remove(0).generation > new.generation);
}

/// P9. Red when an expired member keeps the right to settle because nobody else took its partition.
#[tokio::test]
async fn an_expired_member_that_is_alone_may_not_settle_either() {
    let log = MemoryLog::new(1);
    append(&log, vec![record("a", "1")]).await;
    let process = log.process();
    let alone = join(&process).await;
    let old = assigned(&alone).await.remove(0);
    log.faults().expire(&process);
    let error = alone.settle(vec![settlement(&old, 1)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::StaleGeneration);
    assert!(matches!(signal(&alone).await, Signal::Lost(_)));
    assert!(assigned(&alone).await.remove(0).generation > old.generation);
}

/// P10. Red when a dead client answers, keeps its partitions, or takes those that are opened later with it.
#[tokio::test]
async fn a_dead_client_says_so_and_another_one_works() {
    let log = MemoryLog::new(1);
    append(&log, vec![record("a", "1")]).await;
    let process = log.process();
    let dead = join(&process).await;
    let old = assigned(&dead).await.remove(0);
    let mut readers = dead.assign(vec![(old.clone(), Start::Earliest)]).await.unwrap();
    log.faults().fail_consumers(&process, LogErrorKind::Unreachable);
    assert_eq!(dead.signal().await.unwrap_err().kind(), LogErrorKind::Unreachable);
    assert_eq!(readers[0].read(1).await.unwrap_err().kind(), LogErrorKind::Unreachable);
    let error = dead.settle(vec![settlement(&old, 1)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    let new = join(&process).await;
    assert!(assigned(&new).await.remove(0).generation > old.generation);
}

/// P10. Red when a client that hangs says or answers anything before it is resumed.
#[tokio::test(start_paused = true)]
async fn a_silent_client_hangs_until_it_is_resumed() {
    let log = MemoryLog::new(1);
    log.ensure_topic(TopicSpec::new(topic())).await.unwrap();
    let process = log.process();
    let silent = join(&process).await;
    log.faults().silence_consumers(&process);
    assert!(timeout(WHILE, silent.signal()).await.is_err());
    // The program itself goes on.
    append(&process, vec![record("a", "1")]).await.remove(0).unwrap();
    log.faults().resume(&process);
    assigned(&silent).await;
}

/// P1, P2. Red when a record whose answer was lost is not stored, or a later one of its key is sent.
#[tokio::test]
async fn what_an_unknown_outcome_stored_is_there() {
    let log = MemoryLog::new(1);
    log.faults().lose_next_append_answers(1);
    let outcomes = append(&log, vec![record("a", "1"), record("a", "2"), record("b", "1")]).await;
    let kinds: Vec<_> = outcomes.iter().map(|each| each.as_ref().err().map(|error| error.kind())).collect();
    assert_eq!(kinds, [Some(LogErrorKind::UnknownOutcome), Some(LogErrorKind::Held), None]);
    assert_eq!(values(&log).await, ["1", "1"]);

    let mut producer = log.transactional_producer("x").await.unwrap();
    log.faults().lose_next_transaction_answers(1);
    let error = producer.commit(vec![record("c", "3")], None).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::UnknownOutcome);
    assert_eq!(values(&log).await, ["1", "1", "3"]);

    let consumer = join(&log).await;
    let assignment = assigned(&consumer).await.remove(0);
    log.faults().lose_next_settle_answers(1);
    let error = consumer.settle(vec![settlement(&assignment, 2)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::UnknownOutcome);
    let settled = log.settled_offsets("g", &topic()).await.unwrap().remove(0).unwrap();
    assert_eq!(settled.offset, 2);
}

/// P6. Red when an outage of one topic lets its records in, or keeps another's out.
#[tokio::test]
async fn an_outage_is_of_the_topics_that_it_names() {
    let log = MemoryLog::new(1);
    log.faults().fail_topics("t", LogErrorKind::Unreachable);
    let error = append(&log, vec![record("a", "1")]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    let mut producer = log.transactional_producer("x").await.unwrap();
    let error = producer.commit(vec![record("a", "2")], None).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    log.faults().heal_topics();
    log.faults().fail_topics(".dead", LogErrorKind::Unreachable);
    producer.commit(vec![record("a", "3")], None).await.unwrap();
    assert_eq!(values(&log).await, ["3"]);
    assert_eq!(log.faults().counts().outages, 2);
}

/// R9. Red when chance follows anything but the seed, never strikes, or takes real time.
#[tokio::test(start_paused = true)]
async fn chance_is_the_same_for_the_same_seed() {
    let run = async |seed| {
        let log = MemoryLog::seeded(1, seed);
        let latest = Duration::from_secs(3);
        let chances = Chances { refused: 200, request_lost: 200, answer_lost: 200, late: 300, latest };
        log.faults().by_chance(seed, chances);
        let since = Instant::now();
        let mut outcomes = Vec::new();
        for _ in 0..100 {
            let outcome = append(&log, vec![record("a", "1")]).await.remove(0);
            outcomes.push(outcome.map_err(|error| error.kind()));
        }
        let counts = log.faults().counts();
        assert!(counts.refused > 0 && counts.requests_lost > 0 && counts.answers_lost > 0 && counts.late > 0);
        let stored = outcomes.iter().filter(|each| each.is_ok()).count()
            + usize::try_from(counts.answers_lost).unwrap();
        assert_eq!(values(&log).await.len(), stored);
        (outcomes, since.elapsed())
    };
    let first = run(1).await;
    assert_eq!(first, run(1).await);
    assert_ne!(first.0, run(2).await.0);
    assert!(first.1 > Duration::from_secs(3), "what is late takes time");
}

/// R7. Red when a transaction that nobody waited for is taken for one that did not happen.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_dropped_half_way_ends_its_producer() {
    let log = MemoryLog::new(1);
    let latest = Duration::from_secs(100);
    log.faults().by_chance(1, Chances { late: 1_000, latest, ..Chances::default() });
    let mut producer = log.transactional_producer("x").await.unwrap();
    assert!(timeout(Duration::from_micros(1), producer.commit(vec![record("a", "1")], None)).await.is_err());
    let error = producer.commit(vec![record("a", "2")], None).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::UnknownOutcome);
}

/// P6. Red when the journal forgets what compaction removed.
#[tokio::test]
async fn a_journal_keeps_what_the_log_does_not() {
    let log = MemoryLog::new(1);
    log.keep_journal();
    append(&log, ["1", "2", "3"].map(|value| record("a", value)).to_vec()).await;
    log.faults().delete_before(&crate::tools::zero(), 2).unwrap();
    assert_eq!(values(&log).await, ["3"]);
    assert_eq!(log.journal(&topic()).unwrap().len(), 3);
    assert_eq!(log.topics(), [topic()]);
}
