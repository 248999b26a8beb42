//! Bad input and a closed log: a typed error that names what is wrong.

use std::pin::pin;

use aqueduct_core::{
    LogErrorKind, NewRecord,
    log::{Start, TopicSpec},
};

use super::tools::*;

/// P9, P12. Red when a handle goes on after the log was closed, or a wait outlives it.
pub async fn a_closed_log_says_so(log: Log) {
    make_topic(&log, "t", 1).await;
    let stored = append(&log, vec![plain("t", "")]).await;
    let producer = producer(&log).await;
    let mut transactions = within("opening", log.transactional_producer("x")).await.unwrap();
    let consumer = join(&log, "g", &["t"]).await;
    let assignment = assigned(&consumer, 1).await.remove(0);
    let mut reader = cursor(&log, &at("t", 0), Start::Latest).await;
    let mut from_start = cursor(&log, &stored[0].partition, Start::Earliest).await;
    {
        let mut reading = pin!(reader.read(1));
        let mut signal = pin!(consumer.signal());
        assert!(poll(reading.as_mut(), 1).await.is_none(), "a read of nothing waits");
        assert!(poll(signal.as_mut(), 1).await.is_none(), "nothing changed, so there is no signal");
        within("closing", log.close()).await.unwrap();
        assert_kind(within("a waiting read", reading).await, LogErrorKind::Closed);
        assert_kind(within("a waiting signal", signal).await, LogErrorKind::Closed);
    }
    let closed = LogErrorKind::Closed;
    assert_kind(receipt(enqueue(&producer, vec![plain("t", "")])).await.remove(0), closed);
    assert_kind(within("committing", transactions.commit(vec![plain("t", "")], None)).await, closed);
    assert_kind(within("reading", from_start.read(1)).await, closed);
    assert_kind(settle(&consumer, &assignment, 1).await, closed);
    assert_kind(within("assigning", consumer.assign(vec![(assignment, Start::Earliest)])).await, closed);
    let topic = name("t");
    assert_kind(within("making", log.ensure_topic(TopicSpec::new(topic.clone()))).await, closed);
    assert_kind(within("describing", log.describe_topic(&topic)).await, closed);
    assert_kind(within("opening", log.producer()).await, closed);
    assert_kind(within("opening", log.transactional_producer("x")).await, closed);
    assert_kind(within("joining", log.consumer("g", std::slice::from_ref(&topic))).await, closed);
    assert_kind(within("opening", log.cursor(&at("t", 0), Start::Earliest)).await, closed);
    assert_kind(within("asking", log.end_offsets(&topic)).await, closed);
    assert_kind(within("asking", log.settled_offsets("g", &topic)).await, closed);
}

/// P12. Red when a name that Kafka or a file system refuses, or a number of partitions that cannot be, is taken.
pub async fn bad_names_are_refused(log: Log) {
    make_topic(&log, "t", 2).await;
    let (topic, topics) = (name("t"), [name("t")]);
    let refused = LogErrorKind::Configuration;
    for bad in ["", "../g", "a b", "a\0"] {
        let message = assert_kind(within("joining", log.consumer(bad, &topics)).await, refused);
        assert!(message.contains("group"), "it names the setting: {message}");
        assert_kind(within("asking", log.settled_offsets(bad, &topic)).await, refused);
        assert_kind(within("opening", log.transactional_producer(bad)).await, refused);
    }
    assert_kind(within("joining", log.consumer("g", &[])).await, refused);
    for partitions in [0, -1] {
        let spec = TopicSpec { partitions: Some(partitions), ..TopicSpec::new(name("none")) };
        let message = assert_kind(within("making a topic", log.ensure_topic(spec)).await, refused);
        assert!(message.contains("none"), "it names the topic: {message}");
    }
    assert_eq!(within("describing", log.describe_topic(&name("none"))).await.unwrap(), None);
    for partition in [2, -1] {
        let message =
            assert_kind(within("opening", log.cursor(&at("t", partition), Start::Earliest)).await, refused);
        assert!(message.contains('t'), "it names the topic: {message}");
        let producer = producer(&log).await;
        let record = NewRecord { partition: Some(partition), ..plain("t", "") };
        assert_kind(receipt(enqueue(&producer, vec![record])).await.remove(0), refused);
    }
}

/// P12. Red when reading makes a topic, or the error does not say which one is missing.
pub async fn missing_topics_are_named(log: Log) {
    make_topic(&log, "there", 1).await;
    let missing = LogErrorKind::TopicMissing;
    let topic = name("not.there");
    for message in [
        assert_kind(within("joining", log.consumer("g", &[name("there"), topic.clone()])).await, missing),
        assert_kind(within("opening", log.cursor(&at("not.there", 0), Start::Earliest)).await, missing),
        assert_kind(within("asking", log.end_offsets(&topic)).await, missing),
        assert_kind(within("asking", log.settled_offsets("g", &topic)).await, missing),
    ] {
        assert!(message.contains("not.there"), "{message}");
    }
    assert_eq!(within("describing", log.describe_topic(&topic)).await.unwrap(), None);
    // The failed join left nobody behind who would own partitions.
    let consumer = join(&log, "g", &["there"]).await;
    assigned(&consumer, 1).await;
}

/// P4: positions in a database are kept by topic id. Red when asking for a topic again changes its id or what it is,
/// or two topics have one id.
pub async fn topics_stay_what_they_are(log: Log) {
    let spec = TopicSpec {
        partitions: Some(3),
        retention: Some(std::time::Duration::from_secs(86_400 * 365_000)),
        retention_bytes: Some(1 << 40),
        compacted: true,
        ..TopicSpec::new(name("t"))
    };
    let made = within("making a topic", log.ensure_topic(spec.clone())).await.unwrap();
    assert_eq!((&made.spec.name, spec.differences(&made.spec)), (&spec.name, vec![]));
    let again = within("making it again", log.ensure_topic(TopicSpec::new(name("t")))).await.unwrap();
    assert_eq!(again, made);
    let described = within("describing", log.describe_topic(&name("t"))).await.unwrap();
    assert_eq!(described, Some(made.clone()));
    let other = within("making another", log.ensure_topic(TopicSpec::new(name("u")))).await.unwrap();
    assert_eq!(other.spec.partitions, Some(4), "the default is filled in");
    assert_ne!(other.id, made.id);
}
