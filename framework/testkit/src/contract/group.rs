//! Settled offsets of a group.

use aqueduct_core::{LogErrorKind, NewRecord, log::Settled};

use super::tools::*;

/// P9. Red when a consumer that left can still settle, or waits for signals that cannot come.
pub async fn a_closed_consumer_says_so(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, vec![plain("t", "")]).await;
    let consumer = join(&log, "g", &["t"]).await;
    let assignment = assigned(&consumer, 1).await.remove(0);
    within("leaving", consumer.close()).await.unwrap();
    assert_kind(within("a signal", consumer.signal()).await, LogErrorKind::Closed);
    settle(&consumer, &assignment, 1).await.expect_err("a member that left settles nothing");
    assert_eq!(settled(&log, "g", "t").await, [None]);
}

/// P3. Red when one group's settled offset moves another's.
pub async fn groups_settle_apart(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, vec![plain("t", "")]).await;
    let (a, b) = (join(&log, "a", &["t"]).await, join(&log, "b", &["t"]).await);
    let assignment = assigned(&a, 1).await.remove(0);
    assigned(&b, 1).await;
    settle(&a, &assignment, 1).await.unwrap();
    assert_eq!(settled(&log, "a", "t").await, [Some(1)]);
    assert_eq!(settled(&log, "b", "t").await, [None]);
}

/// P3, P9. Red when a settled offset is not the next owner's start, an unsettled partition claims to have one, or a
/// generation comes twice.
pub async fn settled_offsets_come_back(log: Log) {
    make_topic(&log, "t", 2).await;
    let to = |partition| NewRecord { partition: Some(partition), ..plain("t", "") };
    append(&log, vec![to(0), to(0), to(0)]).await;
    let mut generations = vec![0, 0];
    for round in 0..3 {
        let consumer = join(&log, "g", &["t"]).await;
        let assignments = assigned(&consumer, 2).await;
        let expected = if round == 0 { None } else { Some(round) };
        let expected = expected.map(|offset| Settled { offset, metadata: "aq1:contract".to_owned() });
        assert_eq!(assignments[0].settled, expected, "round {round}");
        assert_eq!(assignments[1].settled, None, "nothing was settled there");
        let info = within("describing", log.describe_topic(&name("t"))).await.unwrap().expect("the topic");
        for (assignment, last) in assignments.iter().zip(&mut generations) {
            assert!(assignment.generation > *last, "{assignment:?} follows generation {last}");
            *last = assignment.generation;
            assert_eq!(assignment.topic_id, info.id);
        }
        settle(&consumer, &assignments[0], round + 1).await.unwrap();
        assert_eq!(settled(&log, "g", "t").await, [Some(round + 1), None]);
        within("leaving", consumer.close()).await.unwrap();
    }
}

/// P3, P12: an offset that the log never gave cannot have ended. Red when it is stored: the next records are skipped.
pub async fn settling_beyond_the_end_is_refused(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, vec![plain("t", ""), plain("t", "")]).await;
    let consumer = join(&log, "g", &["t"]).await;
    let assignment = assigned(&consumer, 1).await.remove(0);
    for offset in [3, -1] {
        assert_out_of_range(settle(&consumer, &assignment, offset).await);
    }
    assert_eq!(settled(&log, "g", "t").await, [None]);
    // One bad settlement does not keep a good one back.
    let both = vec![settlement(&assignment, 3), settlement(&assignment, 2)];
    let results = within("settling", consumer.settle(both)).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
    assert_eq!(settled(&log, "g", "t").await, [Some(2)]);
}

/// P3. A settled offset never goes back within a generation: a settlement that was read before another was stored, as
/// of a dead letter, is late, not wrong. Red when it is stored: a restart repeats what has ended, or finds it removed.
pub async fn a_settled_offset_never_goes_back(log: Log) {
    make_topic(&log, "t", 1).await;
    append(&log, vec![plain("t", ""), plain("t", ""), plain("t", "")]).await;
    let consumer = join(&log, "g", &["t"]).await;
    let assignment = assigned(&consumer, 1).await.remove(0);
    settle(&consumer, &assignment, 2).await.unwrap();
    settle(&consumer, &assignment, 1).await.unwrap();
    assert_eq!(settled(&log, "g", "t").await, [Some(2)]);
    let opening = log.transactional_producer("x");
    let mut producer = within("opening a transactional producer", opening).await.unwrap();
    let late = (consumer.group_token(), vec![settlement(&assignment, 0)]);
    within("committing", producer.commit(vec![plain("letters", "")], Some(late))).await.unwrap();
    assert_eq!(settled(&log, "g", "t").await, [Some(2)]);
    settle(&consumer, &assignment, 3).await.unwrap();
    assert_eq!(settled(&log, "g", "t").await, [Some(3)]);
}
