//! Failures on command.

use aqueduct_core::{
    LogErrorKind,
    log::{CommitLog, Outcomes, Signal, Start, TopicSpec},
};
use aqueduct_memory::MemoryLog;
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use crate::tools::{append, assigned, enqueue, join, record, settlement, signal, topic, values, zero};

fn kinds(outcomes: &Outcomes) -> Vec<Option<LogErrorKind>> {
    outcomes.iter().map(|outcome| outcome.as_ref().err().map(aqueduct_core::LogError::kind)).collect()
}

fn is_waiting(outcomes: &mut Receiver<Outcomes>) -> bool {
    matches!(outcomes.try_recv(), Err(TryRecvError::Empty))
}

/// P2, R1. Red when a key is free again before the receipt of its failure was given, or stays held afterwards.
#[tokio::test]
async fn a_key_is_held_until_the_receipt_of_its_failure() {
    let log = MemoryLog::new(1);
    let producer = log.producer().await.unwrap();
    log.faults().hold_receipts();
    log.faults().fail_next_appends(1, LogErrorKind::Storage);
    let mut first = enqueue(&producer, vec![record("a", "1"), record("b", "1")]);
    let mut second = enqueue(&producer, vec![record("a", "2"), record("b", "2")]);
    // Stored, and read, before anybody is told, though whoever gives receipts had its turn.
    tokio::task::yield_now().await;
    assert_eq!(values(&log).await, ["1", "2"]);
    assert!(is_waiting(&mut first) && is_waiting(&mut second));

    log.faults().release_receipts();
    assert_eq!(kinds(&second.await.unwrap()), [Some(LogErrorKind::Held), None]);
    // In order: the first was given before the second.
    assert_eq!(kinds(&first.try_recv().unwrap()), [Some(LogErrorKind::Storage), None]);
    let third = enqueue(&producer, vec![record("a", "3")]).await.unwrap();
    assert_eq!(kinds(&third), [None]);
    assert_eq!(values(&log).await, ["1", "2", "3"]);
}

/// P1. Red when a failure on command stores something, or fails more or less than was asked.
#[tokio::test]
async fn as_many_appends_fail_as_were_asked_to() {
    let log = MemoryLog::new(1);
    log.faults().fail_next_appends(2, LogErrorKind::Storage);
    let batch = ["a", "b", "c"].map(|key| record(key, key)).to_vec();
    let failed = Some(LogErrorKind::Storage);
    assert_eq!(kinds(&append(&log, batch).await), [failed, failed, None]);
    assert_eq!(values(&log).await, ["c"]);
}

/// P3. Red when a settlement that failed was stored.
#[tokio::test]
async fn as_many_settles_fail_as_were_asked_to() {
    let log = MemoryLog::new(1);
    append(&log, vec![record("a", "1")]).await;
    let consumer = join(&log).await;
    let assignment = assigned(&consumer).await.remove(0);
    log.faults().fail_next_settles(1, LogErrorKind::Unreachable);
    let error = consumer.settle(vec![settlement(&assignment, 1)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    assert_eq!(log.settled_offsets("g", &topic()).await.unwrap(), [None]);
    consumer.settle(vec![settlement(&assignment, 1)]).await.remove(0).unwrap();
    let settled = log.settled_offsets("g", &topic()).await.unwrap().remove(0).unwrap();
    assert_eq!(settled.offset, 1);
}

/// P5. Red when a producer goes on after an outcome that is not known.
#[tokio::test]
async fn an_unknown_outcome_ends_a_transactional_producer() {
    let log = MemoryLog::new(1);
    let mut producer = log.transactional_producer("x").await.unwrap();
    log.faults().fail_next_transactions(1, LogErrorKind::Unreachable);
    let error = producer.commit(vec![record("a", "1")], None).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    producer.commit(vec![record("a", "2")], None).await.unwrap();

    log.faults().fail_next_transactions(1, LogErrorKind::UnknownOutcome);
    for value in ["3", "4"] {
        let error = producer.commit(vec![record("a", value)], None).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::UnknownOutcome);
    }
    let mut producer = log.transactional_producer("x").await.unwrap();
    producer.commit(vec![record("a", "5")], None).await.unwrap();
    assert_eq!(values(&log).await, ["2", "5"]);
}

/// P9. Red when a lost partition keeps its generation, or a revoke that was under way is forgotten.
#[tokio::test]
async fn what_is_lost_comes_back_under_a_new_generation() {
    let log = MemoryLog::new(2);
    append(&log, vec![record("a", "1")]).await;
    let first = join(&log).await;
    let old = assigned(&first).await;
    let second = join(&log).await;
    let Signal::Revoking(asked) = signal(&first).await else { panic!("a revoke was expected") };

    log.faults().lose("g").unwrap();
    let Signal::Lost(lost) = signal(&first).await else { panic!("a loss was expected") };
    assert_eq!(lost.len(), 2);
    let (kept, moved) = (assigned(&first).await, assigned(&second).await);
    assert_eq!((kept.len(), moved.len()), (1, 1));
    assert_eq!(moved[0].partition, asked[0]);
    for new in kept.iter().chain(&moved) {
        let before = old.iter().find(|before| before.partition == new.partition).unwrap();
        assert!(new.generation > before.generation);
        let error = first.settle(vec![settlement(before, 0)]).await.remove(0).unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::StaleGeneration);
    }
    // The answer to the revoke comes too late to take the partition from its new owner.
    first.revoked(&asked);
    second.settle(vec![settlement(&moved[0], 0)]).await.remove(0).unwrap();
    first.settle(vec![settlement(&kept[0], 0)]).await.remove(0).unwrap();
    assert_eq!(log.faults().lose("nobody").unwrap_err().kind(), LogErrorKind::Configuration);
}

/// P2, P12. Red when a reader that retention passed goes on with the next record there is, or an offset comes twice.
#[tokio::test]
async fn deleted_records_are_out_of_range() {
    let log = MemoryLog::new(1);
    append(&log, ["1", "2", "3"].map(|value| record("a", value)).to_vec()).await;
    let mut passed = log.cursor(&zero(), Start::Earliest).await.unwrap();
    log.faults().delete_before(&zero(), 2).unwrap();
    let error = passed.read(1).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::OffsetOutOfRange { first: 2, end: 3 });
    assert_eq!(error.to_string(), "t/0: offset 0 is not in the log, which has 2 to 3 (exclusive)");
    assert_eq!(values(&log).await, ["3"]);

    log.faults().delete_before(&zero(), 100).unwrap();
    assert_eq!(log.end_offsets(&topic()).await.unwrap(), [3]);
    assert_eq!(append(&log, vec![record("a", "4")]).await[0].as_ref().unwrap().offset, 3);
    assert_eq!(values(&log).await, ["4"]);
}

/// P12. Red when a number of partitions that cannot be is only noticed by a panic, or never.
#[tokio::test]
async fn a_log_of_no_partitions_refuses_topics_that_need_the_default() {
    let log = MemoryLog::new(0);
    let outcome = append(&log, vec![record("a", "1")]).await.remove(0).unwrap_err();
    assert_eq!(outcome.kind(), LogErrorKind::Configuration);
    assert_eq!(outcome.to_string(), "topic t: 0 partitions, it must be 1 to 10000");
    log.ensure_topic(TopicSpec { partitions: Some(1), ..TopicSpec::new(topic()) }).await.unwrap();
    append(&log, vec![record("a", "1")]).await.remove(0).unwrap();
}

/// P12: receipts come from a task, and some program publishes after the runtime of its first producer. Red when
/// a receipt that no task can give is dropped.
#[test]
fn a_producer_outlives_its_runtime() {
    let log = MemoryLog::new(1);
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let producer = runtime().block_on(log.producer()).unwrap();
    let outcomes = runtime().block_on(enqueue(&producer, vec![record("a", "1")])).unwrap();
    assert_eq!(kinds(&outcomes), [None]);
}
