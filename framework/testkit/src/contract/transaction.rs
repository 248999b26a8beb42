//! Transactions: records and settlements, all or nothing, by the newest producer alone.

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{LETTER_BYTES, Settlement, TransactionalProducer},
};

use super::tools::*;

async fn transactions(log: &Log, id: &str) -> Box<dyn TransactionalProducer> {
    within("opening a transactional producer", log.transactional_producer(id)).await.unwrap()
}

/// P5. Red when a record is stored although a later one of its transaction cannot be.
pub async fn a_broken_transaction_writes_nothing(log: Log) {
    make_topic(&log, "t", 1).await;
    let mut producer = transactions(&log, "x").await;
    let sized = |bytes: usize| NewRecord { value: Some(vec![b'x'; bytes].into()), ..plain("t", "") };
    let limit = log.capabilities().max_record_bytes + LETTER_BYTES;
    let commit = producer.commit(vec![plain("t", "good"), sized(limit + 1)], None);
    assert_kind(within("committing", commit).await, LogErrorKind::RecordTooLarge);
    // Nothing was in doubt, so the same producer goes on.
    let positions = within("committing", producer.commit(vec![plain("t", "next")], None)).await.unwrap();
    assert_eq!(positions.len(), 1);
    assert_holds(&log, "t", &["next"]).await;
    // The dead letter of the largest record fits.
    within("committing", producer.commit(vec![sized(limit)], None)).await.unwrap();
}

/// P5: a deposed relay can write nothing. Red when opening a producer does not end the older ones of its id.
pub async fn a_newer_producer_fences_the_older(log: Log) {
    make_topic(&log, "t", 1).await;
    let mut old = transactions(&log, "x").await;
    within("committing", old.commit(vec![plain("t", "old")], None)).await.unwrap();
    let mut other = transactions(&log, "y").await;
    let mut new = transactions(&log, "x").await;
    let late = within("committing", old.commit(vec![plain("t", "late")], None)).await;
    let message = assert_kind(late, LogErrorKind::Fenced);
    assert!(message.contains('x'), "it names the id: {message}");
    within("committing", new.commit(vec![plain("t", "new")], None)).await.unwrap();
    // Still fenced after the newer one has committed; another id never was.
    assert_kind(
        within("committing", old.commit(vec![plain("t", "later")], None)).await,
        LogErrorKind::Fenced,
    );
    within("committing", other.commit(vec![plain("t", "other")], None)).await.unwrap();
    assert_holds(&log, "t", &["old", "new", "other"]).await;
}

/// P6, P9. Red when the generation is checked after the records were written, or not at all.
pub async fn a_stale_generation_commits_nothing(log: Log) {
    make_topic(&log, "in", 2).await;
    make_topic(&log, "out", 1).await;
    append(&log, vec![plain("in", "")]).await;
    let first = join(&log, "g", &["in"]).await;
    let old = assigned(&first, 2).await;
    let second = join(&log, "g", &["in"]).await;
    let asked = revoking(&first, 1).await;
    first.revoked(&asked);
    assigned(&second, 1).await;

    let mut producer = transactions(&log, "x").await;
    // One settlement is stale, the other is not: neither may be stored.
    let both: Vec<Settlement> = old.iter().map(|assignment| settlement(assignment, 0)).collect();
    let commit = producer.commit(vec![plain("out", "copy")], Some((first.group_token(), both)));
    assert_kind(within("committing", commit).await, LogErrorKind::StaleGeneration);
    assert_eq!(settled(&log, "g", "in").await, [None, None]);

    let kept = old.iter().find(|one| !asked.contains(&one.partition)).expect("one is kept");
    let commit =
        producer.commit(vec![plain("out", "kept")], Some((first.group_token(), vec![settlement(kept, 0)])));
    within("committing", commit).await.unwrap();
    assert_holds(&log, "out", &["kept"]).await;
}

/// P4, topic to topic. Red when a commit stores its records without its settlements, or the other way round.
pub async fn a_transaction_settles_what_it_wrote(log: Log) {
    make_topic(&log, "in", 1).await;
    make_topic(&log, "out", 1).await;
    append(&log, vec![plain("in", "a"), plain("in", "b")]).await;
    let consumer = join(&log, "g", &["in"]).await;
    let assignment = assigned(&consumer, 1).await.remove(0);
    let mut producer = transactions(&log, "x").await;

    let settlements = (consumer.group_token(), vec![settlement(&assignment, 1)]);
    let records = vec![plain("out", "A"), plain("out", "A again")];
    let positions = within("committing", producer.commit(records, Some(settlements))).await.unwrap();
    let records = first_records(&log, &at("out", 0), 2).await;
    assert_eq!(
        positions.iter().map(|position| position.offset).collect::<Vec<_>>(),
        records.iter().map(aqueduct_core::Record::offset).collect::<Vec<_>>()
    );
    assert_eq!(settled(&log, "g", "in").await, [Some(1)]);

    // A record that cannot be stored keeps the settlement back.
    let bytes = log.capabilities().max_record_bytes + LETTER_BYTES + 1;
    let bad = NewRecord { value: Some(vec![b'x'; bytes].into()), ..plain("out", "") };
    let settlements = (consumer.group_token(), vec![settlement(&assignment, 2)]);
    let commit = producer.commit(vec![bad], Some(settlements));
    assert_kind(within("committing", commit).await, LogErrorKind::RecordTooLarge);
    assert_eq!(settled(&log, "g", "in").await, [Some(1)]);

    // A settlement that cannot be stored keeps the records back.
    let settlements = (consumer.group_token(), vec![settlement(&assignment, 1_000)]);
    let commit = producer.commit(vec![plain("out", "beyond")], Some(settlements));
    assert_out_of_range(within("committing", commit).await);

    // Settling alone is a transaction too.
    let settlements = (consumer.group_token(), vec![settlement(&assignment, 2)]);
    within("committing", producer.commit(Vec::new(), Some(settlements))).await.unwrap();
    assert_eq!(settled(&log, "g", "in").await, [Some(2)]);
    assert_holds(&log, "out", &["A", "A again"]).await;
}
