//! Topics: how they are made, found and appended to.

use std::collections::BTreeMap;

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    key::partition_of,
    log::{PartitionId, Position, TopicInfo, TopicSpec},
};
use uuid::Uuid;

use crate::partition::Partition;

/// The largest record: key, value and headers, as a Kafka broker's default has it.
pub(crate) const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// More would be a typing error, and memory spent on it.
const MAX_PARTITIONS: i32 = 10_000;

#[derive(Debug)]
struct Topic {
    info: TopicInfo,
    partitions: Vec<Partition>,
    /// Where the next record without a key goes.
    spread: usize,
}

#[derive(Debug)]
pub(crate) struct Topics {
    default_partitions: i32,
    next_id: Uuid,
    journal: bool,
    topics: BTreeMap<TopicName, Topic>,
}

impl Topics {
    /// `first` is the id of the first topic.
    pub(crate) fn new(default_partitions: i32, first: Uuid) -> Self {
        Self { default_partitions, next_id: first, journal: false, topics: BTreeMap::new() }
    }

    /// Makes a topic unless it is there.
    pub(crate) fn ensure(&mut self, mut spec: TopicSpec) -> Result<TopicInfo, LogError> {
        if let Some(topic) = self.topics.get(&spec.name) {
            return Ok(topic.info.clone());
        }
        let count = spec.partitions.unwrap_or(self.default_partitions);
        if !(1..=MAX_PARTITIONS).contains(&count) {
            return Err(LogError::new(
                LogErrorKind::Configuration,
                format!("topic {}: {count} partitions, it must be 1 to {MAX_PARTITIONS}", spec.name),
            ));
        }
        spec.partitions = Some(count);
        (spec.replication, spec.min_insync_replicas) = (None, None);
        let info = TopicInfo { id: self.next_id, spec };
        self.next_id = Uuid::from_u128(self.next_id.as_u128().wrapping_add(1));
        let partitions = (0..count).map(|_| Partition::new(self.journal)).collect();
        self.topics.insert(info.spec.name.clone(), Topic { info: info.clone(), partitions, spread: 0 });
        Ok(info)
    }

    /// Adds partitions to a topic that has fewer than so many.
    pub(crate) fn grow(&mut self, name: &TopicName, count: i32) -> Result<(), LogError> {
        let journal = self.journal;
        let topic = self.topics.get_mut(name).ok_or_else(|| topic_missing(name))?;
        let wanted = usize::try_from(count.min(MAX_PARTITIONS)).unwrap_or(0);
        while topic.partitions.len() < wanted {
            topic.partitions.push(Partition::new(journal));
        }
        topic.info.spec.partitions = i32::try_from(topic.partitions.len()).ok();
        Ok(())
    }

    /// Topics that are made from now on keep a journal.
    pub(crate) fn keep_journal(&mut self) {
        self.journal = true;
    }

    pub(crate) fn names(&self) -> Vec<TopicName> {
        self.topics.keys().cloned().collect()
    }

    pub(crate) fn describe(&self, name: &TopicName) -> Option<TopicInfo> {
        self.topics.get(name).map(|topic| topic.info.clone())
    }

    /// The id of a topic that must exist.
    pub(crate) fn id(&self, name: &TopicName) -> Result<Uuid, LogError> {
        Ok(self.topic(name)?.info.id)
    }

    /// The partitions of a topic that must exist.
    pub(crate) fn partitions(&self, name: &TopicName) -> Result<&[Partition], LogError> {
        Ok(&self.topic(name)?.partitions)
    }

    /// The ids of a topic's partitions, by number.
    pub(crate) fn partition_ids(&self, name: &TopicName) -> Result<Vec<PartitionId>, LogError> {
        let count = self.topic(name)?.info.spec.partitions.unwrap_or(0);
        Ok((0..count).map(|partition| PartitionId { topic: name.clone(), partition }).collect())
    }

    pub(crate) fn partition(&self, id: &PartitionId) -> Result<&Partition, LogError> {
        let partitions = self.partitions(&id.topic)?;
        usize::try_from(id.partition)
            .ok()
            .and_then(|index| partitions.get(index))
            .ok_or_else(|| no_partition(id, partitions.len()))
    }

    pub(crate) fn partition_mut(&mut self, id: &PartitionId) -> Result<&mut Partition, LogError> {
        let topic = self.topics.get_mut(&id.topic).ok_or_else(|| topic_missing(&id.topic))?;
        let count = topic.partitions.len();
        usize::try_from(id.partition)
            .ok()
            .and_then(|index| topic.partitions.get_mut(index))
            .ok_or_else(|| no_partition(id, count))
    }

    /// What would keep a record from being appended; changes nothing. `room` is what it may have above the limit.
    pub(crate) fn check(&self, record: &NewRecord, room: usize) -> Result<(), LogError> {
        let size = record.size();
        if size > MAX_RECORD_BYTES + room {
            let key = record.key.as_deref().unwrap_or(b"<none>").escape_ascii();
            return Err(LogError::new(
                LogErrorKind::RecordTooLarge,
                format!(
                    "topic {}, key {key}: the record has {size} bytes, more than {MAX_RECORD_BYTES}",
                    record.topic
                ),
            ));
        }
        let Some(partition) = record.partition else { return Ok(()) };
        let topic = self.topics.get(&record.topic);
        let count = topic.and_then(|topic| topic.info.spec.partitions).unwrap_or(self.default_partitions);
        if (0..count).contains(&partition) {
            return Ok(());
        }
        let id = PartitionId { topic: record.topic.clone(), partition };
        Err(no_partition(&id, usize::try_from(count).unwrap_or(0)))
    }

    /// Appends a record; a topic that is not there is made, as a broker does.
    pub(crate) fn append(&mut self, record: NewRecord, room: usize) -> Result<Position, LogError> {
        self.check(&record, room)?;
        self.ensure(TopicSpec::new(record.topic.clone()))?;
        let topic = self.topics.get_mut(&record.topic).ok_or_else(|| topic_missing(&record.topic))?;
        let count = topic.partitions.len();
        let index = match (record.partition, &record.key) {
            (Some(partition), _) => usize::try_from(partition).unwrap_or(count),
            (None, Some(key)) => {
                let of_key = partition_of(key, topic.info.spec.partitions.unwrap_or(1));
                usize::try_from(of_key).unwrap_or(count)
            }
            (None, None) => {
                topic.spread = (topic.spread + 1) % count;
                topic.spread
            }
        };
        let id = PartitionId {
            topic: record.topic.clone(),
            partition: i32::try_from(index).unwrap_or(self.default_partitions),
        };
        let partition = topic.partitions.get_mut(index).ok_or_else(|| no_partition(&id, count))?;
        let offset = partition.append(record, &topic.info.spec);
        Ok(Position { partition: id, offset })
    }

    /// Wakes every reader: the log was closed.
    pub(crate) fn wake_all(&self) {
        for partition in self.topics.values().flat_map(|topic| &topic.partitions) {
            partition.grown().notify_waiters();
        }
    }

    fn topic(&self, name: &TopicName) -> Result<&Topic, LogError> {
        self.topics.get(name).ok_or_else(|| topic_missing(name))
    }
}

fn topic_missing(name: &TopicName) -> LogError {
    LogError::new(LogErrorKind::TopicMissing, format!("topic {name} does not exist"))
}

fn no_partition(id: &PartitionId, count: usize) -> LogError {
    LogError::new(
        LogErrorKind::Configuration,
        format!("topic {} has {count} partitions, there is no partition {}", id.topic, id.partition),
    )
}
