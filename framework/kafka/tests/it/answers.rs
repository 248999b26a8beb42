//! What a cluster says in trouble, and when: by a relay before a real broker.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Timestamp, TopicName,
    log::{
        Assignment, CommitLog, Consumer, Offset, Outcomes, Position, Producer, Settlement, Signal, TopicSpec,
    },
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};
use tokio::sync::oneshot;

use crate::{
    cluster,
    wire::{Api, Wire},
};

/// Errors of Kafka's protocol, by its documentation.
const NO_ERROR: i16 = 0;
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;

/// Longer than a session.
const LONG: Duration = Duration::from_secs(30);

type Log = Arc<dyn CommitLog>;

/// A log by this way with topic `t` of two partitions, three records in each.
struct Place {
    prefix: String,
    topic: TopicName,
}

impl Place {
    async fn new() -> Self {
        let place = Self { prefix: cluster::prefix(), topic: TopicName::new("t").unwrap() };
        let log = place.log(&cluster::url(), "").await;
        let spec = TopicSpec { partitions: Some(2), ..TopicSpec::new(place.topic.clone()) };
        log.ensure_topic(spec).await.unwrap();
        let producer = log.producer().await.unwrap();
        let records = (0..6).map(|number| place.record(number % 2)).collect();
        for stored in send(&producer, records).await {
            stored.unwrap();
        }
        log.close().await.unwrap();
        place
    }

    async fn log(&self, url: &str, more: &str) -> Log {
        let url = format!("{url}?{}{more}", self.prefix);
        KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap()
    }

    fn record(&self, partition: i32) -> NewRecord {
        NewRecord {
            topic: self.topic.clone(),
            partition: Some(partition),
            key: None,
            headers: Headers::default(),
            value: Some("x".into()),
            timestamp: Timestamp::from_millis(1_700_000_000_000),
        }
    }

    async fn join(&self, log: &Log) -> (Arc<dyn Consumer>, Vec<Assignment>) {
        let member = log.consumer("g", std::slice::from_ref(&self.topic)).await.unwrap();
        let given = assigned(&member).await;
        (member, given)
    }

    async fn settled(&self, log: &Log) -> Vec<Option<Offset>> {
        let settled = log.settled_offsets("g", &self.topic).await.unwrap();
        settled.into_iter().map(|settled| Some(settled?.offset)).collect()
    }
}

async fn send(producer: &Arc<dyn Producer>, records: Vec<NewRecord>) -> Outcomes {
    let (tell, told) = oneshot::channel();
    producer.enqueue(records, Box::new(move |outcomes| drop(tell.send(outcomes))));
    tokio::time::timeout(LONG, told).await.expect("an answer").unwrap()
}

async fn signal(member: &Arc<dyn Consumer>) -> Signal {
    tokio::time::timeout(LONG, member.signal()).await.expect("a signal").unwrap()
}

/// Both partitions, in their order.
async fn assigned(member: &Arc<dyn Consumer>) -> Vec<Assignment> {
    let mut given = Vec::new();
    while given.len() < 2 {
        match signal(member).await {
            Signal::Assigned(more) => given.extend(more),
            other => panic!("partitions were expected, not {other:?}"),
        }
    }
    given.sort_by_key(|one| one.partition.partition);
    given
}

fn settlement(of: &Assignment, offset: Offset) -> Settlement {
    let Assignment { partition, generation, .. } = of.clone();
    Settlement { partition, generation, offset, metadata: "aq1:answers".to_owned() }
}

async fn settle(member: &Arc<dyn Consumer>, of: &Assignment, offset: Offset) -> Result<(), LogError> {
    member.settle(vec![settlement(of, offset)]).await.remove(0)
}

/// R7. Red when partitions are given to a member that cannot prove that it is one: a process that slept through the loss of
/// what it was given would take it from its newer owner in a database.
#[tokio::test]
async fn partitions_are_given_with_a_proof_of_membership() {
    let place = Place::new().await;
    let direct = place.log(&cluster::url(), "").await;
    let (member, given) = place.join(&direct).await;
    settle(&member, &given[0], 1).await.unwrap();
    member.close().await.unwrap();
    let wire = Wire::new();
    let log = place.log(&wire.url(), "").await;
    wire.fail(Api::OffsetCommit, 1_000, UNKNOWN_MEMBER_ID);
    let member = log.consumer("g", std::slice::from_ref(&place.topic)).await.unwrap();
    // The client takes the answer for the loss of all it has.
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    while let Ok(signal) = tokio::time::timeout_at(until, member.signal()).await {
        let signal = signal.unwrap();
        assert!(!matches!(signal, Signal::Assigned(_)), "{signal:?}");
    }
    assert!(wire.met() > 0, "nothing was proved");
    wire.heal();
    let given = assigned(&member).await;
    assert_eq!(given[0].settled.as_ref().map(|settled| settled.offset), Some(1));
    // A proof changes nothing, and stands for where the group is by then.
    settle(&member, &given[0], 2).await.unwrap();
    let ours = member.confirm(given.clone()).await.unwrap();
    let at = |one: &Assignment| one.settled.as_ref().map(|settled| settled.offset);
    assert_eq!(ours.iter().map(at).collect::<Vec<_>>(), [Some(2), None]);
    assert_eq!(place.settled(&direct).await, [Some(2), None]);
    // Asked after it has slept, it cannot bring one.
    wire.fail(Api::OffsetCommit, 1_000, UNKNOWN_MEMBER_ID);
    let until = tokio::time::Instant::now() + LONG;
    let ours = loop {
        match member.confirm(given.clone()).await {
            Err(error) if error.kind() == LogErrorKind::Unreachable => {
                assert!(tokio::time::Instant::now() < until, "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(ours, []);
}

/// P9. What a member was given is asked back before it can be told where the group stands. Red when the question that nobody
/// answers is waited for first: the group waits for the member, and the member for the group.
#[tokio::test]
async fn what_was_not_told_yet_is_given_back() {
    let place = Place::new().await;
    let direct = place.log(&cluster::url(), "").await;
    let (member, given) = place.join(&direct).await;
    for one in &given {
        settle(&member, one, 1).await.unwrap();
    }
    member.close().await.unwrap();
    let wire = Wire::new();
    let log = place.log(&wire.url(), "").await;
    wire.fail(Api::OffsetCommit, 1_000, REBALANCE_IN_PROGRESS);
    let member = log.consumer("g", std::slice::from_ref(&place.topic)).await.unwrap();
    let hears = Arc::clone(&member);
    let heard = tokio::spawn(async move { signal(&hears).await });
    while wire.met() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = direct.consumer("g", std::slice::from_ref(&place.topic)).await.unwrap();
    let Signal::Assigned(others) = signal(&other).await else { panic!("it is given its share") };
    assert_eq!(others.len(), 1);
    wire.heal();
    let Signal::Assigned(kept) = heard.await.unwrap() else { panic!("it is told of the rest alone") };
    assert_eq!(kept.len(), 1);
    assert_ne!(kept[0].partition, others[0].partition);
}

async fn commit(
    log: &Log,
    records: Vec<NewRecord>,
    member: &Arc<dyn Consumer>,
    settlement: Settlement,
) -> Result<Vec<Position>, LogError> {
    let mut producer = log.transactional_producer("x").await.unwrap();
    producer.commit(records, Some((member.group_token(), vec![settlement]))).await
}

/// P10. Red when what a broker says that has the group no more is taken for an answer; librdkafka reads null at it where an
/// administrator asks.
#[tokio::test]
async fn a_group_that_moved_is_asked_for_where_it_is() {
    let (place, wire) = (Place::new().await, Wire::new());
    let log = place.log(&wire.url(), "").await;
    let (member, given) = place.join(&log).await;
    settle(&member, &given[0], 2).await.unwrap();
    member.close().await.unwrap();
    wire.fail(Api::OffsetFetch, 2, NOT_COORDINATOR);
    assert_eq!(place.settled(&log).await, [Some(2), None]);
    assert_eq!(wire.met(), 2);
    wire.fail(Api::OffsetFetch, 2, NOT_COORDINATOR);
    let (_member, given) = place.join(&log).await;
    assert_eq!(
        given.iter().map(|one| Some(one.settled.as_ref()?.offset)).collect::<Vec<_>>(),
        [Some(2), None]
    );
    assert_eq!(wire.met(), 4);
}

/// P3, P10: a partition that is called fenced stops for good. Red when a refused settlement is said to prove another owner
/// while this process has not heard that its partition went.
#[tokio::test]
async fn a_rebalance_that_nobody_heard_the_end_of_proves_no_other_owner() {
    let (place, wire) = (Place::new().await, Wire::new());
    let log = place.log(&wire.url(), "").await;
    let (member, given) = place.join(&log).await;
    wire.fail(Api::OffsetCommit, usize::MAX, REBALANCE_IN_PROGRESS);
    let refused = settle(&member, &given[0], 1).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::Unreachable, "{refused}");
    assert!(wire.met() > 1, "it was tried again");
    wire.heal();
    settle(&member, &given[0], 1).await.unwrap();
    assert_eq!(place.settled(&log).await, [Some(1), None]);
}

/// R2. Red when a member stores one settled offset at a time, and not one for each partition: a transaction that waits for
/// an outage would hold up all.
#[tokio::test]
async fn a_transaction_that_waits_holds_its_own_partition_alone() {
    let (place, wire) = (Place::new().await, Wire::new());
    let log = place.log(&wire.url(), "").await;
    let (member, given) = place.join(&log).await;
    let mut producer = log.transactional_producer("x").await.unwrap();
    wire.hold(Api::EndTxn);
    let (token, settles) = (member.group_token(), settlement(&given[0], 1));
    let records = vec![place.record(0)];
    let waiting =
        tokio::spawn(async move { producer.commit(records, Some((token, vec![settles]))).await.map(drop) });
    while wire.met() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    settle(&member, &given[1], 1).await.unwrap();
    let held = settle(&member, &given[0], 2).await.unwrap_err();
    assert_eq!(held.kind(), LogErrorKind::Held, "{held}");
    assert!(!waiting.is_finished());
    wire.heal();
    waiting.await.unwrap().unwrap();
    settle(&member, &given[0], 2).await.unwrap();
    assert_eq!(place.settled(&log).await, [Some(2), Some(1)]);
}

/// P5. Red when a client that failed for good is not replaced.
#[tokio::test]
async fn a_producer_that_failed_for_good_is_made_anew() {
    let (place, wire) = (Place::new().await, Wire::new());
    let log = place.log(&wire.url(), "").await;
    let producer = log.producer().await.unwrap();
    wire.fail(Api::InitProducerId, 1, CLUSTER_AUTHORIZATION_FAILED);
    let failed = send(&producer, vec![place.record(0)]).await.remove(0).unwrap_err();
    assert_eq!((failed.kind(), wire.met()), (LogErrorKind::Configuration, 1), "{failed}");
    let stored = send(&producer, vec![place.record(0), place.record(0)]).await;
    let offsets: Vec<_> = stored.into_iter().map(|stored| stored.unwrap().offset).collect();
    assert_eq!(offsets, [3, 4]);
}

/// P9. Red when a member keeps to itself that its group has put it out.
#[tokio::test]
async fn a_member_that_was_put_out_loses_all_and_comes_back() {
    let (place, wire) = (Place::new().await, Wire::new());
    let log = place.log(&wire.url(), "").await;
    let (member, old) = place.join(&log).await;
    wire.fail(Api::Heartbeat, 1, UNKNOWN_MEMBER_ID);
    let mut lost = match signal(&member).await {
        Signal::Lost(lost) => lost,
        other => panic!("Lost was expected, not {other:?}"),
    };
    lost.sort();
    assert_eq!(lost, old.iter().map(|one| one.partition.clone()).collect::<Vec<_>>());
    let stale = settle(&member, &old[0], 1).await.unwrap_err();
    assert_eq!(stale.kind(), LogErrorKind::StaleGeneration, "{stale}");
    let new = assigned(&member).await;
    assert!(new[0].generation > old[0].generation, "{new:?} follows {old:?}");
    settle(&member, &new[0], 1).await.unwrap();
    assert_eq!(place.settled(&log).await, [Some(1), None]);
}

/// R7. The client's part, on which we build: it answers a loss behind the commits that are under way, which would go out under the
/// next generation, over what the next owner has stored. Without one it joins again at once. Red when a version of librdkafka
/// does not wait.
#[tokio::test]
async fn a_loss_is_answered_behind_the_commits_that_are_under_way() {
    for commits in [false, true] {
        let (place, wire) = (Place::new().await, Wire::new());
        let log = place.log(&wire.url(), "&session.timeout.ms=6000").await;
        let (member, given) = place.join(&log).await;
        // Nothing behind it is answered either, so the session ends.
        wire.hold(if commits { Api::OffsetCommit } else { Api::Heartbeat });
        let (settling, one) = (Arc::clone(&member), given[0].clone());
        let settled = commits.then(|| tokio::spawn(async move { settle(&settling, &one, 1).await }));
        let joined = wire.asked(Api::JoinGroup);
        let Signal::Lost(_) = signal(&member).await else { panic!("it loses all") };
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(wire.asked(Api::JoinGroup) == joined, commits);
        wire.heal();
        // The broker may have taken it.
        if let Some(settled) = settled
            && let Err(refused) = settled.await.unwrap()
        {
            assert_eq!(refused.kind(), LogErrorKind::StaleGeneration, "{refused}");
        }
        let given = assigned(&member).await;
        settle(&member, &given[0], 2).await.unwrap();
        assert_eq!(place.settled(&log).await, [Some(2), None]);
    }
}

/// P9: it takes the broker's judgement, since the zombie knows of nothing. Red when a transaction does not carry the
/// member's generation, or only where its settlement moves something (seen in an hour of `chaos kafka`).
#[tokio::test]
async fn a_zombie_that_has_heard_of_nothing_settles_and_commits_nothing() {
    let (place, wire) = (Place::new().await, Wire::new());
    let short = "&session.timeout.ms=6000&max.poll.interval.ms=6000";
    let (here, there) = (place.log(&wire.url(), short).await, place.log(&cluster::url(), short).await);
    let (zombie, old) = place.join(&here).await;
    settle(&zombie, &old[0], 2).await.unwrap();
    // It is told that all is well, and does not answer what its group asks of it.
    wire.fail(Api::Heartbeat, usize::MAX, NO_ERROR);
    let (owner, new) = place.join(&there).await;
    settle(&owner, &new[1], 1).await.unwrap();
    let refused = commit(&here, vec![place.record(0)], &zombie, settlement(&old[0], 3)).await.unwrap_err();
    let kinds = [LogErrorKind::Unreachable, LogErrorKind::StaleGeneration];
    assert!(kinds.contains(&refused.kind()), "{refused}");
    // Nor where its settlement moves nothing, as that of a record that is set aside.
    let unmoved = commit(&here, vec![place.record(0)], &zombie, settlement(&old[0], 2)).await;
    let refused = unmoved.unwrap_err();
    assert!(kinds.contains(&refused.kind()), "{refused}");
    let refused = settle(&zombie, &old[0], 3).await.unwrap_err();
    assert!(kinds.contains(&refused.kind()), "{refused}");
    assert_eq!(place.settled(&there).await, [Some(2), Some(1)]);
    settle(&owner, &new[0], 3).await.unwrap();
    wire.heal();
}
