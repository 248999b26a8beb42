//! Samples settled offsets while groups work.

use std::collections::HashMap;

use checker::{PartitionId, Recorder, Sampler, now};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::cluster::{PATIENCE, client, ends, number, partitions};

pub(crate) fn run(brokers: &str, reads: &[(String, String)], recorder: &Recorder) -> anyhow::Result<()> {
    let mut groups = HashMap::new();
    for (group, topic) in reads {
        if !groups.contains_key(group) {
            groups.insert(group.clone(), Group::new(brokers, group)?);
        }
        if let Some(group) = groups.get_mut(group) {
            group.topics.push(topic.clone());
        }
    }
    let mut sampler = Sampler::new(recorder);
    checker::until_told(|last| {
        if last {
            sampler.forget();
        }
        for group in groups.values_mut() {
            // While brokers are away there is no answer, and no sample.
            if let Ok(samples) = group.sample() {
                let (at, samples) = samples;
                for (shard, settled, end) in samples {
                    sampler.see(at, &group.name, shard, (settled, end))?;
                }
            }
        }
        Ok(())
    })
}

/// When the settled offsets had been read; each with its partition's end.
type Samples = (u64, Vec<(PartitionId, Option<i64>, i64)>);

struct Group {
    name: String,
    client: BaseConsumer,
    topics: Vec<String>,
    partitions: TopicPartitionList,
}

impl Group {
    fn new(brokers: &str, name: &str) -> anyhow::Result<Self> {
        let (client, partitions) = (client(brokers, name)?, TopicPartitionList::new());
        Ok(Self { name: name.to_owned(), client, topics: Vec::new(), partitions })
    }

    fn sample(&mut self) -> anyhow::Result<Samples> {
        // A topic that is made later has its partitions asked for then.
        for topic in &self.topics {
            if self.partitions.elements_for_topic(topic).is_empty() {
                for partition in partitions(&self.client, topic)? {
                    self.partitions.add_partition(topic, partition);
                }
            }
        }
        if self.partitions.count() == 0 {
            return Ok((now(), Vec::new()));
        }
        let settled = self.client.committed_offsets(self.partitions.clone(), PATIENCE)?;
        // What ends while the brokers are asked for their ends does not excuse what was settled before.
        let at = now();
        let ends = ends(&self.client, &self.partitions)?;
        let mut samples = Vec::new();
        for each in settled.elements() {
            let end = ends.find_partition(each.topic(), each.partition());
            if let (Ok(()), Some(end)) = (each.error(), end.and_then(|end| number(end.offset()))) {
                let shard = PartitionId::new(each.topic(), each.partition());
                samples.push((shard, number(each.offset()), end));
            }
        }
        Ok((at, samples))
    }
}
