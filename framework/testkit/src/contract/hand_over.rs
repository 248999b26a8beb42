//! Partitions moving between the members of a group.

use std::pin::pin;

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{Signal, Start},
};

use super::tools::*;

/// P9, P10. Red when a signal is taken off its queue by a wait that is then dropped.
pub async fn a_dropped_signal_wait_loses_nothing(log: Log) {
    make_topic(&log, "t", 1).await;
    let mut owner = join(&log, "g", &["t"]).await;
    assigned(&owner, 1).await;
    for n in 0..10 {
        let next = join(&log, "g", &["t"]).await;
        let mut given = None;
        {
            let mut waiting = pin!(next.signal());
            if let Some(early) = poll(waiting.as_mut(), 1).await {
                panic!("one partition, and it has an owner: {early:?}");
            }
            within("leaving", owner.close()).await.unwrap();
            if let Some(signal) = poll(waiting, n % 5).await {
                given = Some(signal.unwrap());
            }
        }
        match given {
            Some(Signal::Assigned(given)) => assert_eq!(given.len(), 1),
            Some(other) => panic!("Assigned was expected, not {other:?}"),
            None => drop(assigned(&next, 1).await),
        }
        owner = next;
    }
}

/// P9, P10. Red when the partitions of a member that closed, or was dropped, find no new owner.
pub async fn a_leaver_is_taken_over(log: Log) {
    make_topic(&log, "t", 2).await;
    append(&log, vec![plain("t", "")]).await;
    let first = join(&log, "g", &["t"]).await;
    let old = assigned(&first, 2).await;
    settle(&first, &old[0], 1).await.unwrap();
    let second = join(&log, "g", &["t"]).await;
    // It leaves without answering what is asked of it.
    revoking(&first, 1).await;
    within("leaving", first.close()).await.unwrap();
    let new = assigned(&second, 2).await;
    assert_eq!(begins(&new[0]), Some(1));
    for (old, new) in old.iter().zip(&new) {
        assert!(new.generation > old.generation, "{new:?} follows {old:?}");
    }
    let third = join(&log, "g", &["t"]).await;
    drop(second);
    assert_eq!(begins(&assigned(&third, 2).await[0]), Some(1));
}

/// P9. Red when a settlement is not checked against the newest generation: a woken zombie moves the group.
pub async fn a_stale_generation_settles_nothing(log: Log) {
    make_topic(&log, "t", 2).await;
    append(&log, vec![plain("t", "0"), plain("t", "1")]).await;
    let first = join(&log, "g", &["t"]).await;
    let old = assigned(&first, 2).await;
    let second = join(&log, "g", &["t"]).await;
    let asked = revoking(&first, 1).await;
    let (moved, kept) = if asked[0] == old[0].partition { (&old[0], &old[1]) } else { (&old[1], &old[0]) };
    first.revoked(&asked);
    let new = assigned(&second, 1).await.remove(0);
    assert_eq!(new.partition, moved.partition);

    let message = assert_kind(settle(&first, moved, 0).await, LogErrorKind::StaleGeneration);
    assert!(message.contains(&moved.partition.to_string()), "it names the partition: {message}");
    assert_kind(
        within("assigning", first.assign(vec![(moved.clone(), Start::Earliest)])).await,
        LogErrorKind::StaleGeneration,
    );
    assert_eq!(settled(&log, "g", "t").await, [None, None]);
    // Neither the new owner nor what the old one kept is touched.
    settle(&second, &new, 0).await.unwrap();
    settle(&first, kept, 0).await.unwrap();
    // It takes both, the owner and its number: the right member under the older number is refused, and so is the
    // wrong member under the newest.
    assert_kind(settle(&second, moved, 0).await, LogErrorKind::StaleGeneration);
    assert_kind(settle(&first, &new, 0).await, LogErrorKind::StaleGeneration);
}

/// R7. Red when a member is told that it still has what it gave back or what another was given, or not where the group stands
/// now.
pub async fn what_was_lost_is_not_confirmed(log: Log) {
    make_topic(&log, "t", 2).await;
    append(
        &log,
        (0..2).map(|partition| NewRecord { partition: Some(partition), ..plain("t", "") }).collect(),
    )
    .await;
    let first = join(&log, "g", &["t"]).await;
    let old = assigned(&first, 2).await;
    for one in &old {
        settle(&first, one, 0).await.unwrap();
    }
    let confirmed = within("confirming", first.confirm(old.clone())).await.unwrap();
    assert_eq!(confirmed.iter().map(begins).collect::<Vec<_>>(), [Some(0), Some(0)]);
    let second = join(&log, "g", &["t"]).await;
    let asked = revoking(&first, 1).await;
    let (moved, kept) = if asked[0] == old[0].partition { (&old[0], &old[1]) } else { (&old[1], &old[0]) };
    settle(&first, kept, 1).await.unwrap();
    first.revoked(&asked);
    let new = assigned(&second, 1).await.remove(0);
    let confirmed = within("confirming", first.confirm(old.clone())).await.unwrap();
    assert_eq!(
        confirmed.iter().map(|one| (&one.partition, begins(one))).collect::<Vec<_>>(),
        [(&kept.partition, Some(1))]
    );
    // Nor under another generation, or what is another's.
    let others = vec![moved.clone(), kept.clone()];
    assert_eq!(within("confirming", second.confirm(others)).await.unwrap(), []);
    assert_eq!(within("confirming", second.confirm(vec![new.clone()])).await.unwrap(), [new]);
    within("leaving", first.close()).await.unwrap();
    assert_kind(within("confirming", first.confirm(vec![kept.clone()])).await, LogErrorKind::Closed);
}

/// P9. Red when a partition is given before its owner has answered, or to two.
pub async fn members_share_partitions(log: Log) {
    make_topic(&log, "t", 4).await;
    let first = join(&log, "g", &["t"]).await;
    let all = assigned(&first, 4).await;
    assert_eq!(all.iter().map(|one| one.partition.partition).collect::<Vec<_>>(), [0, 1, 2, 3]);

    let second = join(&log, "g", &["t"]).await;
    let asked = revoking(&first, 2).await;
    match poll(pin!(second.signal()), 1).await {
        None => {}
        Some(Ok(Signal::Assigned(early))) if early.is_empty() => {}
        Some(other) => panic!("{asked:?} has an owner that has not answered, but {other:?}"),
    }
    // What is being asked for is still the first member's: it settles before it answers.
    for assignment in &all {
        settle(&first, assignment, 0).await.unwrap();
    }
    first.revoked(&asked);
    let given = assigned(&second, 2).await;
    let mut expected = asked.clone();
    expected.sort();
    assert_eq!(given.iter().map(|one| one.partition.clone()).collect::<Vec<_>>(), expected);
    assert!(given.iter().all(|one| begins(one) == Some(0)), "{given:?}");

    // Reading goes by the assignments, in the order given.
    append(&log, vec![plain("t", "zero")]).await;
    let owner = if asked.contains(&at("t", 0)) { (&second, &given) } else { (&first, &all) };
    let zero = owner.1.iter().find(|one| one.partition.partition == 0).expect("somebody owns 0").clone();
    let mut readers = within("assigning", owner.0.assign(vec![(zero, Start::Offset(0))])).await.unwrap();
    assert_eq!(texts(&read(&mut *readers.remove(0), 1).await), ["zero"]);
}
