//! Asks a cluster.

use std::time::Duration;

use anyhow::Context;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

/// How long an answer is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A client that reads what is committed, in no group's name but to ask what `group` has settled.
pub(crate) fn client(brokers: &str, group: &str) -> anyhow::Result<BaseConsumer> {
    configured(brokers, group, "read_committed")
}

/// One that sees the ends of open transactions too.
pub(crate) fn uncommitted(brokers: &str) -> anyhow::Result<BaseConsumer> {
    configured(brokers, "observer", "read_uncommitted")
}

fn configured(brokers: &str, group: &str, isolation: &str) -> anyhow::Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("client.id", "observer")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .context("cannot make a client")
}

/// The partitions of `topic`; none where there is no such topic.
pub(crate) fn partitions(client: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    Ok(found.map_or_else(Vec::new, |topic| topic.partitions().iter().map(|each| each.id()).collect()))
}

/// How many partitions have fewer replicas in sync than replicas, or no leader.
pub(crate) fn behind(brokers: &str) -> anyhow::Result<usize> {
    let metadata = client(brokers, "observer")?.fetch_metadata(None, PATIENCE)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions.filter(|each| each.leader() < 0 || each.isr().len() < each.replicas().len()).count())
}

/// The offset after the last record, or marker, that `client` may read, of each partition.
pub(crate) fn ends(client: &BaseConsumer, of: &TopicPartitionList) -> anyhow::Result<TopicPartitionList> {
    let mut asked = TopicPartitionList::new();
    for each in of.elements() {
        asked.add_partition_offset(each.topic(), each.partition(), Offset::End)?;
    }
    let ends = client.offsets_for_times(asked, PATIENCE)?;
    for each in ends.elements() {
        each.error().with_context(|| format!("{}/{}", each.topic(), each.partition()))?;
    }
    Ok(ends)
}

/// An offset as a number, where it is one.
pub(crate) fn number(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}
