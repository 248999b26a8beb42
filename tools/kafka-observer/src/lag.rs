//! How many records wait for groups.

use std::time::Instant;

use anyhow::{bail, ensure};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::cluster::{PATIENCE, client, ends, number, partitions};

/// Of a partition no more are read; where offsets are further apart, the difference says how much there is to do.
const MOST: i64 = 1_000;

pub(crate) fn count(brokers: &str, reads: &[(String, String)]) -> anyhow::Result<i64> {
    let mut lag = 0;
    for (group, topic) in reads {
        let client = client(brokers, group)?;
        let mut all = TopicPartitionList::new();
        for partition in partitions(&client, topic)? {
            all.add_partition(topic, partition);
        }
        ensure!(all.count() > 0, "there is no topic {topic}");
        let settled = client.committed_offsets(all.clone(), PATIENCE)?;
        let ends = ends(&client, &all)?;
        for each in settled.elements() {
            let (from, end) =
                (number(each.offset()).unwrap_or(0), ends.find_partition(topic, each.partition()));
            let end = end.and_then(|end| number(end.offset())).unwrap_or(0);
            if end - from > 2 * MOST {
                lag += end - from;
            } else if from < end {
                // What is between may be markers of transactions alone.
                lag += between(&client, topic, each.partition(), from)?;
            }
        }
    }
    Ok(lag)
}

/// The records of a partition from an offset on.
fn between(client: &BaseConsumer, topic: &str, partition: i32, from: i64) -> anyhow::Result<i64> {
    let mut one = TopicPartitionList::new();
    one.add_partition_offset(topic, partition, Offset::Offset(from))?;
    client.assign(&one)?;
    let started = Instant::now();
    let mut records = 0;
    while records < MOST {
        match client.poll(PATIENCE) {
            Some(Ok(_)) => records += 1,
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) if started.elapsed() > PATIENCE => bail!("{topic}/{partition}: {error}"),
            None if started.elapsed() > PATIENCE => bail!("{topic}/{partition} gives nothing from {from} on"),
            Some(Err(_)) | None => {}
        }
    }
    client.unassign()?;
    Ok(records)
}
