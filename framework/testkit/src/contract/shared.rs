//! A group whose members are in different processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, Mutex},
};

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{Consumer, PartitionId, Signal, Start},
};
use tokio::task::JoinHandle;

use super::tools::*;

/// P9. Red when a member that joins elsewhere gets a partition before its owner has answered, or the owner is not asked.
pub async fn members_elsewhere_share_partitions([here, there]: [Log; 2]) {
    assert!(here.capabilities().shared_groups, "the log says that it can");
    make_topic(&here, "t", 4).await;
    let first = join(&here, "g", &["t"]).await;
    let all = assigned(&first, 4).await;
    let second = join(&there, "g", &["t"]).await;
    let asked = revoking(&first, 2).await;
    if let Some(early) = poll(pin!(second.signal()), 3).await {
        panic!("{asked:?} has an owner that has not answered, but {early:?}");
    }
    for assignment in &all {
        settle(&first, assignment, 0).await.unwrap();
    }
    first.revoked(&asked);
    let given = assigned(&second, 2).await;
    let mut expected = asked.clone();
    expected.sort();
    assert_eq!(given.iter().map(|one| one.partition.clone()).collect::<Vec<_>>(), expected);
    for new in &given {
        let old = all.iter().find(|old| old.partition == new.partition).expect("it was the first's");
        assert!(new.generation > old.generation, "{new:?} follows {old:?}");
        assert_eq!((begins(new), new.topic_id), (Some(0), old.topic_id));
    }
    // A third one, where the second is.
    let third = join(&there, "g", &["t"]).await;
    let more = match signal_of_either(&first, &second).await {
        (owner, Signal::Revoking(more)) => {
            owner.revoked(&more);
            more
        }
        (_, other) => panic!("Revoking was expected, not {other:?}"),
    };
    assert_eq!(assigned(&third, 1).await[0].partition, more[0]);
}

async fn signal_of_either<'a>(
    a: &'a Arc<dyn Consumer>,
    b: &'a Arc<dyn Consumer>,
) -> (&'a Arc<dyn Consumer>, Signal) {
    let either = async {
        tokio::select! {
            biased;
            signal = a.signal() => (a, signal.unwrap()),
            signal = b.signal() => (b, signal.unwrap()),
        }
    };
    within("a signal of either", either).await
}

/// P9, P10. Red when the partitions of a member that closed, or was dropped, are found by its own process only.
pub async fn a_leaver_elsewhere_is_taken_over([here, there]: [Log; 2]) {
    make_topic(&here, "t", 2).await;
    append(&here, vec![plain("t", "")]).await;
    let first = join(&here, "g", &["t"]).await;
    let old = assigned(&first, 2).await;
    settle(&first, &old[0], 1).await.unwrap();
    let second = join(&there, "g", &["t"]).await;
    // It leaves without answering what is asked of it.
    revoking(&first, 1).await;
    within("leaving", first.close()).await.unwrap();
    let new = assigned(&second, 2).await;
    assert_eq!(begins(&new[0]), Some(1));
    let third = join(&here, "g", &["t"]).await;
    drop(second);
    let newest = assigned(&third, 2).await;
    assert_eq!(begins(&newest[0]), Some(1));
    for (new, newest) in new.iter().zip(&newest) {
        assert!(newest.generation > new.generation, "{newest:?} follows {new:?}");
    }
}

/// P9, P10. Red when a log that is closed keeps what its members owned.
pub async fn a_closed_log_hands_over([here, there]: [Log; 2]) {
    make_topic(&here, "t", 4).await;
    let first = join(&here, "g", &["t"]).await;
    assigned(&first, 4).await;
    let second = join(&there, "g", &["t"]).await;
    revoking(&first, 2).await;
    within("closing", here.close()).await.unwrap();
    assert_kind(within("a signal", first.signal()).await, LogErrorKind::Closed);
    assigned(&second, 4).await;
}

/// P9. Red when a settlement is checked against what its own process knows, and not against the newest generation.
pub async fn a_stale_generation_elsewhere_settles_nothing([here, there]: [Log; 2]) {
    make_topic(&here, "t", 2).await;
    let first = join(&here, "g", &["t"]).await;
    let old = assigned(&first, 2).await;
    let second = join(&there, "g", &["t"]).await;
    let asked = revoking(&first, 1).await;
    let (moved, kept) = if asked[0] == old[0].partition { (&old[0], &old[1]) } else { (&old[1], &old[0]) };
    first.revoked(&asked);
    let new = assigned(&second, 1).await.remove(0);
    assert_kind(settle(&first, moved, 0).await, LogErrorKind::StaleGeneration);
    assert_kind(settle(&first, &new, 0).await, LogErrorKind::StaleGeneration);
    assert_kind(settle(&second, moved, 0).await, LogErrorKind::StaleGeneration);
    assert_kind(settle(&second, kept, 0).await, LogErrorKind::StaleGeneration);
    let assigning = first.assign(vec![(moved.clone(), Start::Earliest)]);
    assert_kind(within("assigning", assigning).await, LogErrorKind::StaleGeneration);
    let confirmed = within("confirming", first.confirm(old.clone())).await.unwrap();
    assert_eq!(confirmed, std::slice::from_ref(kept));
    assert_eq!(settled(&there, "g", "t").await, [None, None]);
    settle(&second, &new, 0).await.unwrap();
    settle(&first, kept, 0).await.unwrap();
    assert_eq!(settled(&here, "g", "t").await, [Some(0), Some(0)]);
    // Nobody owns what a member left behind, so it is not settled either.
    within("leaving", second.close()).await.unwrap();
    within("leaving", first.close()).await.unwrap();
    let third = join(&there, "g", &["t"]).await;
    for (new, old) in assigned(&third, 2).await.iter().zip(&old) {
        assert!(new.generation > old.generation);
    }
}

/// P9, P6. Red when a transaction does not check the member and the generation that its settlements name.
pub async fn a_stale_generation_elsewhere_commits_nothing([here, there]: [Log; 2]) {
    make_topic(&here, "t", 1).await;
    make_topic(&here, "out", 1).await;
    let first = join(&here, "g", &["t"]).await;
    let old = assigned(&first, 1).await.remove(0);
    let token = first.group_token();
    let second = join(&there, "g", &["t"]).await;
    within("leaving", first.close()).await.unwrap();
    let new = assigned(&second, 1).await.remove(0);
    let third = join(&here, "g", &["t"]).await;

    let mut producer = within("opening", here.transactional_producer("x")).await.unwrap();
    for (token, settlement) in [
        (third.group_token(), settlement(&old, 0)),
        (third.group_token(), settlement(&new, 0)),
        (token, settlement(&new, 0)),
    ] {
        let commit = producer.commit(vec![plain("out", "zombie")], Some((token, vec![settlement])));
        within("committing", commit).await.expect_err("it is not the owner");
    }
    let mut producer = within("opening", there.transactional_producer("y")).await.unwrap();
    let own = (second.group_token(), vec![settlement(&new, 0)]);
    within("committing", producer.commit(vec![plain("out", "owner")], Some(own))).await.unwrap();
    assert_holds(&here, "out", &["owner"]).await;
    assert_eq!(settled(&here, "g", "t").await, [Some(0)]);
}

/// P10. Red when a process does not see topics, records or settled offsets of another.
pub async fn what_others_make_is_seen([here, there]: [Log; 2]) {
    make_topic(&there, "before", 1).await;
    let mut reader = cursor(&there, &at("before", 0), Start::Earliest).await;
    {
        let mut reading = pin!(reader.read(10));
        assert!(poll(reading.as_mut(), 3).await.is_none(), "there is nothing yet");
        append(&here, vec![plain("before", "value")]).await;
        assert_eq!(within("reading", reading).await.unwrap().len(), 1);
    }
    make_topic(&here, "later", 2).await;
    let to = |partition| NewRecord { partition: Some(partition), ..plain("later", "value") };
    append(&here, vec![to(0), to(1)]).await;
    let consumer = join(&there, "g", &["later"]).await;
    let given = assigned(&consumer, 2).await;
    settle(&consumer, &given[1], 1).await.unwrap();
    assert_eq!(settled(&here, "g", "later").await, [None, Some(1)]);
    let starts = given.iter().map(|one| (one.clone(), Start::Earliest)).collect();
    let mut readers = within("assigning", consumer.assign(starts)).await.unwrap();
    assert_eq!(texts(&read(&mut *readers[1], 1).await), ["value"]);
}

type Given = Arc<Mutex<BTreeSet<(PartitionId, i64)>>>;
type Owned = Arc<Mutex<BTreeMap<PartitionId, i64>>>;

/// Answers what a member is asked until it is closed, and keeps what it owns.
fn follow(consumer: Arc<dyn Consumer>, given: Given) -> (Owned, JoinHandle<()>) {
    let owned = Owned::default();
    let kept = Arc::clone(&owned);
    let task = tokio::spawn(async move {
        loop {
            match consumer.signal().await {
                Ok(Signal::Assigned(assignments)) => {
                    for one in assignments {
                        let new = given.lock().unwrap().insert((one.partition.clone(), one.generation));
                        assert!(new, "{one:?} was given before under this generation");
                        kept.lock().unwrap().insert(one.partition, one.generation);
                    }
                }
                Ok(Signal::Revoking(partitions)) => {
                    for partition in &partitions {
                        kept.lock().unwrap().remove(partition).expect("asked for what it owns");
                    }
                    consumer.revoked(&partitions);
                }
                Ok(other) => panic!("{other:?} of a log that runs"),
                Err(error) => break assert_eq!(error.kind(), LogErrorKind::Closed, "{error}"),
            }
        }
    });
    (owned, task)
}

/// P3, P9. Red when a partition is given to two members under one generation, or the group does not come to rest evenly.
pub async fn churn_gives_no_generation_twice(logs: [Log; 2]) {
    const PARTITIONS: usize = 8;
    make_topic(&logs[0], "t", 8).await;
    let given = Given::default();
    let mut members = Vec::new();
    for round in 0..24_usize {
        let consumer = join(&logs[round % 2], "g", &["t"]).await;
        let (owned, task) = follow(Arc::clone(&consumer), Arc::clone(&given));
        members.push((consumer, owned, task));
        // Of three members one leaves, the oldest and the newest by turns, in the midst of the hand-over.
        if members.len() > 3 {
            let (consumer, _, task) = members.remove(if round % 3 == 0 { 3 } else { 0 });
            if round % 4 == 0 {
                drop(consumer);
                task.abort();
            } else {
                within("leaving", consumer.close()).await.unwrap();
                within("its last signal", task).await.unwrap();
            }
        }
    }
    let at_rest = || {
        let owned: Vec<_> = members.iter().map(|(_, owned, _)| owned.lock().unwrap().clone()).collect();
        let distinct: BTreeSet<_> = owned.iter().flat_map(BTreeMap::keys).collect();
        let least = owned.iter().map(BTreeMap::len).min().unwrap_or(0);
        distinct.len() == PARTITIONS && least >= PARTITIONS / members.len()
    };
    within("coming to rest", async {
        while !at_rest() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (consumer, owned, task) in members {
        for (partition, generation) in owned.lock().unwrap().clone() {
            let newest = given.lock().unwrap().range(..=(partition.clone(), i64::MAX)).next_back().cloned();
            assert_eq!(newest, Some((partition, generation)), "the owner has the newest generation");
        }
        within("leaving", consumer.close()).await.unwrap();
        within("its last signal", task).await.unwrap();
    }
}
