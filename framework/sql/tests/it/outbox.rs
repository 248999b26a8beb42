//! P5: state and staged events commit or roll back together, and a row is its record.

use aqueduct_core::{Headers, NewRecord, Timestamp, effects::Effects, record::HeadersBuilder};
use proptest::prelude::*;

use crate::support::*;

/// P5. Red when `stage` is called outside the turn.
#[tokio::test]
async fn staged_events_wait_and_are_counted_with_their_state() {
    let fixture = fixture().await;
    let db = &fixture.db;
    assert_eq!(db.outbox().await.unwrap().waiting, 0);
    let claim = take(db).await.claim;
    for offset in 1..=3 {
        deliver(db, claim, offset).await;
    }
    let mut transaction = begin(db, claim, 4).await;
    transaction.stage(record(4));
    drop(transaction);
    let status = db.outbox().await.unwrap();
    assert_eq!(status.waiting, 3);
    assert!(status.oldest.is_some());
    assert_eq!(number(db, "SELECT count FROM aqueduct_published WHERE event_type = 't.Deposited'").await, 3);
}

fn headers() -> impl Strategy<Value = Headers> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    proptest::collection::vec((bytes(), proptest::option::of(bytes())), 0..6).prop_map(|pairs| {
        let mut headers = HeadersBuilder::new();
        pairs.iter().for_each(|(name, value)| headers.push(name, value.as_deref()));
        headers.build()
    })
}

fn records() -> impl Strategy<Value = Vec<NewRecord>> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    let record = (proptest::option::of(0..8), bytes(), headers(), bytes(), any::<i64>()).prop_map(
        |(partition, key, headers, value, micros)| NewRecord {
            topic: topic("any.topic"),
            partition,
            key: key.map(Into::into),
            headers,
            value: value.map(Into::into),
            timestamp: Timestamp::from_micros(micros),
        },
    );
    proptest::collection::vec(record, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// P5. Red when a column of the outbox is left out, or null becomes empty.
    #[test]
    fn what_the_log_gets_is_what_was_staged(staged in records()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sent = runtime.block_on(async {
            let fixture = fixture().await;
            let claim = take(&fixture.db).await.claim;
            let mut transaction = begin(&fixture.db, claim, 1).await;
            staged.iter().for_each(|record| transaction.stage(record.clone()));
            transaction.commit().await.unwrap();
            let log = crate::relay::SpyLog::new(8);
            crate::relay::drain(&fixture.db, &log).await;
            log.sent()
        });
        prop_assert_eq!(sent.len(), staged.len());
        for (sent, staged) in sent.iter().zip(&staged) {
            prop_assert_eq!(&sent.topic, &staged.topic);
            prop_assert_eq!(sent.partition, staged.partition);
            prop_assert_eq!(&sent.key, &staged.key);
            prop_assert_eq!(&sent.headers, &staged.headers);
            prop_assert_eq!(&sent.value, &staged.value);
            prop_assert_eq!(sent.timestamp, staged.timestamp);
        }
    }
}
