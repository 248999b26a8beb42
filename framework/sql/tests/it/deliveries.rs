//! P4: the effects of a delivery happen once.

use std::{future::Future, pin::pin, task::Poll};

use aqueduct_core::effects::{Begin, CommitError, Effects, Place};

use crate::support::*;

/// P4. Red when `position::mark` ignores the conflict of the mark by position.
#[tokio::test]
async fn a_delivery_takes_effect_once() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    deliver(db, claim, 5).await;
    assert!(matches!(db.begin(claim, Place::Live(5), Some(event(5))).await.unwrap(), Begin::Ended));
    assert!(matches!(db.begin(claim, Place::Live(5), None).await.unwrap(), Begin::Ended));
    assert!(db.ended(claim, Place::Live(5), None).await.unwrap());
    assert!(!db.ended(claim, Place::Live(6), None).await.unwrap());
    assert_eq!(balance(db).await, 1);
}

/// P4. Red when `position::mark` does not look at the mark by event id, or does not keep the position's.
#[tokio::test]
async fn the_same_event_at_another_position_has_ended() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    deliver(db, claim, 5).await;
    assert!(matches!(db.begin(claim, Place::Live(9), Some(event(5))).await.unwrap(), Begin::Ended));
    assert!(db.ended(claim, Place::Live(9), None).await.unwrap());
    assert_eq!(take(db).await.ended, [5, 9]);
    // Another subscription has its own memory.
    let mut other = scope(0);
    other.subscription = "recommendation".to_owned();
    let claim = db.take(&other).await.unwrap().claim;
    assert!(matches!(db.begin(claim, Place::Live(5), Some(event(5))).await.unwrap(), Begin::New(_)));
}

/// P4. Red when `position::mark` does not compare the generation.
#[tokio::test]
async fn a_zombie_writes_nothing() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let old = take(db).await.claim;
    let new = take(db).await.claim;
    assert_eq!((new.row, new.generation), (old.row, old.generation + 1));
    assert!(matches!(db.begin(old, Place::Live(5), Some(event(5))).await.unwrap(), Begin::Fenced));
    assert!(!db.raise(old, 9).await.unwrap());
    assert_eq!(take(db).await.settled, None);
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_mark").await, 0);
}

/// P4. Turns that share a group share what was read of a position. Red when a take does not make that void.
#[tokio::test]
async fn a_zombie_behind_the_take_in_its_group_writes_nothing() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    let transaction = begin(db, claim, 5).await;
    // In this order they wait for the transaction above, in whose group they are.
    let scope = scope(0);
    let (committed, taken, begun) = tokio::join!(
        biased;
        async {
            tokio::task::yield_now().await;
            transaction.commit().await
        },
        db.take(&scope),
        db.begin(claim, Place::Live(6), Some(event(6))),
    );
    committed.unwrap();
    assert_eq!(taken.unwrap().ended, [5]);
    assert!(matches!(begun.unwrap(), Begin::Fenced));
    assert_eq!(take(db).await.ended, [5]);
}

/// P4. A transaction begun before the take commits before it, and the new owner sees its mark. Red when `take` does
/// not go through the gate.
#[tokio::test]
async fn taking_waits_for_the_transaction_under_way() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 5).await;
    let scope = scope(0);
    let mut taking = pin!(db.take(&scope));
    assert!(std::future::poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx).is_pending())).await);
    deposit(&tx(&mut transaction), 1);
    let (committed, taken) = tokio::join!(transaction.commit(), taking);
    committed.unwrap();
    assert_eq!(taken.unwrap().ended, [5]);
    assert_eq!(balance(db).await, 1);
}

/// P3, P4. Red when `raise` can lower the settled offset, or leaves the marks below it.
#[tokio::test]
async fn the_settled_offset_only_grows_and_takes_its_marks_along() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    for offset in [3, 5, 8] {
        deliver(db, claim, offset).await;
    }
    assert!(db.raise(claim, 6).await.unwrap());
    assert!(db.raise(claim, 4).await.unwrap());
    let taken = take(db).await;
    assert_eq!((taken.settled, taken.ended), (Some(6), vec![8]));
    assert!(matches!(db.begin(taken.claim, Place::Live(3), None).await.unwrap(), Begin::Ended));
    assert!(db.ended(taken.claim, Place::Live(3), None).await.unwrap());
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_mark").await, 1);
}

/// R3, R4. A released record stands below the settled offset and has not ended. Red when `mark` or `ended` judges it by
/// that offset, or does not look at its marks.
#[tokio::test]
async fn a_released_record_is_judged_by_its_marks() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    assert!(db.raise(claim, 9).await.unwrap());
    for offset in [5, 12] {
        let place = Place::Released(offset);
        assert!(!db.ended(claim, place, Some(event(offset))).await.unwrap());
        let begun = db.begin(claim, place, Some(event(offset))).await.unwrap();
        let Begin::New(mut transaction) = begun else { panic!("{offset}: {begun:?}") };
        deposit(&tx(&mut transaction), 1);
        transaction.commit().await.unwrap();
        assert!(db.ended(claim, place, Some(event(offset))).await.unwrap());
        assert!(matches!(db.begin(claim, place, Some(event(offset))).await.unwrap(), Begin::Ended));
    }
    assert_eq!(balance(db).await, 2);
}

/// P4. Red when `Abandon` or `Session` drops without rolling back.
#[tokio::test]
async fn a_dropped_transaction_leaves_no_trace() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;

    // Dropped after its Tx.
    let mut transaction = begin(db, claim, 1).await;
    deposit(&tx(&mut transaction), 1);
    transaction.stage(record(1));
    drop(transaction);

    // Dropped before its Tx.
    let mut transaction = begin(db, claim, 2).await;
    let kept = tx(&mut transaction);
    deposit(&kept, 1);
    drop(transaction);
    drop(kept);

    // A handler that panicked.
    let mut transaction = begin(db, claim, 3).await;
    let lent = tx(&mut transaction);
    let handler = tokio::spawn(async move {
        deposit(&lent, 1);
        panic!("on purpose");
    });
    assert!(handler.await.unwrap_err().is_panic());
    drop(transaction);

    // A handler that was cancelled.
    let mut transaction = begin(db, claim, 4).await;
    let lent = tx(&mut transaction);
    let (started, has_started) = tokio::sync::oneshot::channel();
    let handler = tokio::spawn(async move {
        deposit(&lent, 1);
        started.send(()).unwrap();
        std::future::pending::<()>().await;
        drop(lent);
    });
    has_started.await.unwrap();
    handler.abort();
    assert!(handler.await.unwrap_err().is_cancelled());
    drop(transaction);

    // A commit that was dropped before its first poll.
    let mut transaction = begin(db, claim, 5).await;
    deposit(&tx(&mut transaction), 1);
    drop(transaction.commit());

    // A turn that was given up while waiting, and one that was given and not taken.
    let transaction = begin(db, claim, 6).await;
    {
        let mut waiting = pin!(db.begin(claim, Place::Live(7), None));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
        drop(transaction);
    }

    db.write(|_| Ok(())).await.unwrap();
    assert_eq!(balance(db).await, 0);
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_mark").await, 0);
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_event_mark").await, 0);
    assert_eq!(number(db, "SELECT count(*) FROM aqueduct_outbox").await, 0);
}

/// P4. Red when `end` commits although the `Tx` is still out.
#[tokio::test]
async fn a_kept_tx_fails_its_delivery_once_it_is_let_go() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 1).await;
    let kept = tx(&mut transaction);
    deposit(&kept, 1);
    let mut commit = transaction.commit();
    assert!(std::future::poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx).is_pending())).await);
    deposit(&kept, 1);
    drop(kept);
    assert!(matches!(commit.await, Err(CommitError::Refused(error)) if error.to_string().contains("kept")));
    assert_eq!(balance(db).await, 0);
    deliver(db, claim, 1).await;
}

/// P4. Red when the authorizer allows transaction control, or the commit hook allows autocommit.
#[tokio::test]
async fn a_handler_cannot_end_the_transaction() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    let mut transaction = begin(db, claim, 1).await;
    let lent = tx(&mut transaction);
    deposit(&lent, 1);
    for sql in [
        "COMMIT",
        "END",
        "ROLLBACK",
        "BEGIN",
        "RELEASE aqueduct_turn",
        "ROLLBACK TO aqueduct_turn",
        "release AQUEDUCT_TURN",
        "SAVEPOINT \"Aqueduct_Turn\"",
    ] {
        assert!(lent.execute_batch(sql).is_err(), "{sql}");
    }
    lent.execute_batch("SAVEPOINT mine; UPDATE account SET balance = 70; ROLLBACK TO mine; RELEASE mine")
        .unwrap();
    drop(lent);
    transaction.commit().await.unwrap();
    assert_eq!(balance(db).await, 1);

    // SQLite itself ends it: what comes after may not be written in autocommit.
    let mut transaction = begin(db, claim, 2).await;
    let lent = tx(&mut transaction);
    assert!(lent.execute_batch("INSERT OR ROLLBACK INTO account VALUES (1, 5)").is_err());
    assert!(lent.execute_batch("UPDATE account SET balance = 99").is_err());
    drop(lent);
    assert!(matches!(transaction.commit().await, Err(CommitError::Refused(_))));
    assert_eq!(balance(db).await, 1);
    deliver(db, claim, 2).await;
    assert_eq!(balance(db).await, 2);
}

/// P4. Two deliveries share a commit; it fails because of one of them. Nobody may be told that anything happened,
/// and the good one must get through at its next attempt. Red when `begin` answers `Ended` before the group's
/// commit, or when `alone` stays 0.
#[tokio::test]
async fn a_group_fails_together_and_the_bad_turn_then_fails_alone() {
    let fixture = fixture().await;
    let db = &fixture.db;
    let claim = take(db).await.claim;
    let mut good = begin(db, claim, 1).await;
    let mut bad = pin!(db.begin(claim, Place::Live(2), Some(event(2))));
    let mut repeat = pin!(db.begin(claim, Place::Live(3), Some(event(1))));
    for waiting in [&mut bad, &mut repeat] {
        assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
    }
    deposit(&tx(&mut good), 1);
    let mut good = good.commit();
    assert!(std::future::poll_fn(|cx| Poll::Ready(good.as_mut().poll(cx).is_pending())).await);
    let Begin::New(mut bad) = bad.await.unwrap() else { panic!("ended") };
    tx(&mut bad).execute("INSERT INTO child VALUES (404)", []).unwrap();
    let bad = bad.commit();
    let (bad, repeat, good) = tokio::join!(bad, repeat, good);
    assert!(matches!(bad, Err(CommitError::NotCommitted(_))));
    assert!(matches!(good, Err(CommitError::NotCommitted(_))));
    assert!(repeat.is_err());
    assert_eq!(balance(db).await, 0);

    let mut good = begin(db, claim, 1).await;
    let mut bad = pin!(db.begin(claim, Place::Live(2), Some(event(2))));
    assert!(std::future::poll_fn(|cx| Poll::Ready(bad.as_mut().poll(cx).is_pending())).await);
    deposit(&tx(&mut good), 1);
    let good = good.commit();
    let bad = async {
        let Begin::New(mut bad) = bad.await.unwrap() else { panic!("ended") };
        tx(&mut bad).execute("INSERT INTO child VALUES (404)", []).unwrap();
        bad.commit().await
    };
    let (good, bad) = tokio::join!(good, bad);
    good.unwrap();
    assert!(matches!(bad, Err(CommitError::Refused(_))));
    assert_eq!(balance(db).await, 1);
}

/// P4. Red when the gate serves another order than that of arrival.
#[tokio::test]
async fn turns_come_first_in_first_out() {
    let fixture = fixture().await;
    let db = &fixture.db;
    db.write(|conn| {
        conn.execute_batch("CREATE TABLE seen (n INTEGER PRIMARY KEY AUTOINCREMENT, who INTEGER)")
    })
    .await
    .unwrap();
    let writes = (0..1_000).map(|who| {
        let db = db.clone();
        async move {
            db.write(move |conn| conn.execute("INSERT INTO seen (who) VALUES (?1)", [who])).await.unwrap();
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for write in writes {
        tasks.spawn(write);
    }
    tasks.join_all().await;
    assert_eq!(number(db, "SELECT count(*) FROM seen WHERE who <> n - 1").await, 0);
    assert_eq!(number(db, "SELECT count(*) FROM seen").await, 1_000);
}
