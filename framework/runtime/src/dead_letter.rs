//! Dead letters: the record set aside for good, byte for byte, with its reason. Written in a transaction that also
//! sends the settled offset under the current generation, so that an evicted member writes none.

use std::{collections::BTreeSet, fmt::Display, sync::Arc};

use aqueduct_core::{
    Environment, LogError, LogErrorKind, NewRecord, Record, TopicName,
    log::{CommitLog, Consumer, Settlement, TopicSpec, TransactionalProducer},
    name::NameError,
};
use bytes::Bytes;
use tokio::sync::Mutex;

/// The topic of a group's dead letters of `topic`.
///
/// # Errors
/// The two names together are no name.
pub fn topic_of(group: &str, topic: &TopicName) -> Result<TopicName, NameError> {
    TopicName::new(&format!("{group}.{topic}.dead"))
}

/// Longest reason kept, in characters: an error text may quote a whole payload.
const MAX_REASON: usize = 2_000;

/// Writes the dead letters of one subscription.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    group: String,
    log: Arc<dyn CommitLog>,
    consumer: Arc<dyn Consumer>,
    environment: Environment,
    /// Opened at the first dead letter. Another member of the group fences it; then it is opened again, since what
    /// keeps an evicted member from writing is its generation.
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    producer: Option<Box<dyn TransactionalProducer>>,
    /// Dead-letter topics that exist, with as many partitions as their source.
    ensured: BTreeSet<TopicName>,
}

impl DeadLetters {
    pub(crate) fn new(
        group: &str,
        log: Arc<dyn CommitLog>,
        consumer: Arc<dyn Consumer>,
        environment: Environment,
    ) -> Self {
        Self { group: group.to_owned(), log, consumer, environment, writer: Mutex::default() }
    }

    /// Stores a copy of `record`. `StaleGeneration`: the partition has a newer owner, nothing was written.
    pub(crate) async fn store(
        &self,
        record: &Record,
        reason: &str,
        attempts: u32,
        settlement: Settlement,
    ) -> Result<(), LogError> {
        let letter = self.letter(record, reason, attempts)?;
        let mut writer = self.writer.lock().await;
        let Writer { producer, ensured } = &mut *writer;
        if !ensured.contains(&letter.topic) {
            let mut spec = TopicSpec::new(letter.topic.clone());
            spec.partitions =
                self.log.describe_topic(record.topic()).await?.and_then(|info| info.spec.partitions);
            self.log.ensure_topic(spec).await?;
            ensured.insert(letter.topic.clone());
        }
        loop {
            let open = match producer.as_mut() {
                Some(open) => open,
                None => {
                    let id = format!("aqueduct.dead.{}", self.group);
                    producer.insert(self.log.transactional_producer(&id).await?)
                }
            };
            let settlements = Some((self.consumer.group_token(), vec![settlement.clone()]));
            match open.commit(vec![letter.clone()], settlements).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == LogErrorKind::Fenced => *producer = None,
                Err(error) => {
                    // After an unknown outcome a producer is not used again. A second copy has the same origin.
                    *producer = None;
                    return Err(error);
                }
            }
        }
    }

    fn letter(&self, record: &Record, reason: &str, attempts: u32) -> Result<NewRecord, LogError> {
        let mut headers = record.headers();
        let mut put = |name: &str, value: &dyn Display| {
            headers.push(name.as_bytes(), Some(value.to_string().as_bytes()))
        };
        put("aqueduct_dead_format", &1);
        put("aqueduct_dead_reason", &reason.chars().take(MAX_REASON).collect::<String>());
        put("aqueduct_dead_topic", record.topic());
        put("aqueduct_dead_partition", &record.partition());
        put("aqueduct_dead_offset", &record.offset());
        put("aqueduct_dead_timestamp", &record.timestamp().as_micros());
        put("aqueduct_dead_attempts", &attempts);
        Ok(NewRecord {
            topic: topic_of(&self.group, record.topic())?,
            partition: Some(record.partition()),
            key: record.key().map(Bytes::copy_from_slice),
            headers: headers.build(),
            value: record.value().map(Bytes::copy_from_slice),
            timestamp: self.environment.now(),
        })
    }
}
