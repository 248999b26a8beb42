//! What one write transaction changes: topics made, records appended, generations and settled offsets raised.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    key::partition_of,
    log::{Offset, PartitionId, Position, Settlement, TopicInfo, TopicSpec},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    batch::{OFFSET_BITS, checksum, record_id},
    membership::{Owner, owner},
    options::{check_partitions, configuration},
    reading::range,
    schema::{create_topic, load_topic},
    shared::{LostRange, Shared, Topic},
};

/// Why a command did not take effect.
pub(crate) enum Fault {
    /// The command is refused; nothing of it was written, others of the transaction are unharmed.
    Refused(LogError),
    /// The database failed: the transaction is over.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        Self::Refused(error)
    }
}

/// The next offset of a partition within the transaction.
pub(crate) struct Next {
    pub(crate) topic: Arc<Topic>,
    pub(crate) number: i32,
    pub(crate) offset: Offset,
}

/// The changes of a transaction that is open on `connection`.
pub(crate) struct Changes<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) shared: &'a Shared,
    high_water: &'a HashMap<i64, Offset>,
    topics: HashMap<TopicName, Arc<Topic>>,
    last: Option<Arc<Topic>>,
    /// Records by the id of their row, inserted at the end in the order of their ids.
    records: Vec<(i64, &'a NewRecord)>,
    /// Offsets of topics made here that had been given before.
    pub(crate) lost: Vec<(i64, LostRange)>,
    /// By the partition's row id, so that they are written in order.
    pub(crate) next: BTreeMap<i64, Next>,
    pub(crate) bytes: usize,
    /// Members that joined in this transaction, by their number in this process.
    pub(crate) joined: HashMap<u64, i64>,
}

impl<'a> Changes<'a> {
    pub(crate) fn new(
        connection: &'a Connection,
        shared: &'a Shared,
        high_water: &'a HashMap<i64, Offset>,
    ) -> Self {
        Self {
            connection,
            shared,
            high_water,
            topics: HashMap::new(),
            last: None,
            records: Vec::new(),
            lost: Vec::new(),
            next: BTreeMap::new(),
            bytes: 0,
            joined: HashMap::new(),
        }
    }

    /// The topics that were used: committed once the transaction is.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Whether a record can be stored at all; `room` is what it may have above the limit.
    pub(crate) fn check(&self, record: &NewRecord, room: usize) -> Result<(), LogError> {
        let limit = self.shared.options.max_record_bytes + room;
        if record.size() > limit {
            return Err(LogError::new(
                LogErrorKind::RecordTooLarge,
                format!(
                    "a record for {} with {} has {} bytes of key, value and headers, more than max_record_bytes = {limit}",
                    record.topic,
                    shown_key(record),
                    record.size()
                ),
            ));
        }
        Ok(())
    }

    /// The topic, made with defaults unless it exists.
    pub(crate) fn topic(&mut self, name: &TopicName) -> rusqlite::Result<Arc<Topic>> {
        // Records of a batch mostly are of one topic.
        if let Some(last) = self.last.as_ref().filter(|last| last.name() == name) {
            return Ok(Arc::clone(last));
        }
        if let Some(topic) = self.topics.get(name) {
            self.last = Some(Arc::clone(topic));
            return Ok(Arc::clone(topic));
        }
        let topic = match self.shared.topic(name) {
            Some(topic) => topic,
            None => match load_topic(self.connection, name)? {
                Some(stored) => Arc::new(Topic::new(stored)),
                None => self.create(TopicSpec::new(name.clone()))?,
            },
        };
        self.topics.insert(name.clone(), Arc::clone(&topic));
        Ok(topic)
    }

    fn create(&mut self, mut spec: TopicSpec) -> rusqlite::Result<Arc<Topic>> {
        let options = &self.shared.options;
        let partitions = spec.partitions.unwrap_or(options.partitions);
        spec.partitions = Some(partitions);
        (spec.replication, spec.min_insync_replicas) = (None, None);
        let info = TopicInfo { id: options.environment.new_id(), spec };
        let stored = create_topic(self.connection, &info, partitions, self.high_water)?;
        for ((id, next), number) in stored.partitions.iter().zip(0..).filter(|((_, next), _)| *next > 0) {
            let partition = PartitionId { topic: info.spec.name.clone(), partition: number };
            self.lost.push((*id, LostRange { partition, offsets: 0..*next }));
        }
        Ok(Arc::new(Topic::new(stored)))
    }

    /// Makes a topic as it is described, unless it exists.
    pub(crate) fn ensure_topic(&mut self, spec: &TopicSpec) -> Result<TopicInfo, Fault> {
        if let Some(partitions) = spec.partitions {
            check_partitions(&format!(" of topic {}", spec.name), partitions)?;
        }
        if !self.topics.contains_key(&spec.name)
            && self.shared.topic(&spec.name).is_none()
            && load_topic(self.connection, &spec.name)?.is_none()
        {
            let topic = self.create(spec.clone())?;
            self.topics.insert(spec.name.clone(), topic);
        }
        Ok(self.topic(&spec.name)?.info.clone())
    }

    /// Refuses a record for a partition that its topic has not, or would not have; makes nothing.
    pub(crate) fn check_place(&self, record: &NewRecord) -> Result<(), Fault> {
        let Some(number) = record.partition else { return Ok(()) };
        let found = match self.topics.get(&record.topic) {
            Some(topic) => Some(topic.count()),
            None => match self.shared.topic(&record.topic) {
                Some(topic) => Some(topic.count()),
                None => load_topic(self.connection, &record.topic)?.map(|stored| Topic::new(stored).count()),
            },
        };
        let count = found.unwrap_or(self.shared.options.partitions);
        if (0..count).contains(&number) {
            return Ok(());
        }
        Err(Fault::Refused(configuration(format!(
            "topic {} has {count} partitions, there is no partition {number}",
            record.topic
        ))))
    }

    /// The partition of a record; `spread` is for records that name neither partition nor key. Refused, no topic is
    /// made.
    pub(crate) fn place(&mut self, record: &NewRecord, spread: &mut i32) -> Result<(Arc<Topic>, i32), Fault> {
        self.check_place(record)?;
        let topic = self.topic(&record.topic)?;
        let count = topic.count();
        let number = match (record.partition, &record.key) {
            (Some(number), _) => number,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => {
                *spread = spread.wrapping_add(1);
                spread.rem_euclid(count.max(1))
            }
        };
        Ok((topic, number))
    }

    /// Appends a record.
    pub(crate) fn append(
        &mut self,
        record: &'a NewRecord,
        topic: &Arc<Topic>,
        number: i32,
    ) -> Result<Position, Fault> {
        let partition = PartitionId { topic: record.topic.clone(), partition: number };
        let Some(id) = topic.partition(number).map(|partition| partition.id) else {
            return Err(Fault::Refused(configuration(format!("there is no partition {partition}"))));
        };
        let next = match self.next.entry(id) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let reused = aqueduct_core::planted("embedded-offsets-reused");
                let sql = match reused {
                    true => "SELECT coalesce(max(id & 1099511627775), -1) + 1 FROM record WHERE id >> 40 = ?",
                    false => "SELECT next_offset FROM partition WHERE id = ?",
                };
                let offset = self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
                entry.insert(Next { topic: Arc::clone(topic), number, offset })
            }
        };
        let offset = next.offset;
        if offset >> OFFSET_BITS != 0 {
            return Err(Fault::Refused(LogError::new(LogErrorKind::Storage, format!("{partition} is full"))));
        }
        next.offset = offset + 1;
        self.records.push((record_id(id, offset), record));
        self.bytes += record.size();
        Ok(Position { partition, offset })
    }

    /// Writes the records, and the next offsets: once per partition and transaction.
    pub(crate) fn finish(&mut self) -> rusqlite::Result<()> {
        // A partition's records lie together in the file: in their order each page is looked for once.
        self.records.sort_unstable_by_key(|(row, _)| *row);
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO record(id, timestamp, key, headers, value, crc) VALUES(?,?,?,?,?,?)",
        )?;
        for (row, record) in &self.records {
            let (key, headers, value) =
                (record.key.as_deref(), record.headers.as_block(), record.value.as_deref());
            let timestamp = record.timestamp.as_micros();
            let crc = checksum(*row, timestamp, key, headers, value);
            insert.execute(params![row, timestamp, key, &headers[..], value, crc])?;
        }
        for (id, next) in &self.next {
            self.connection
                .prepare_cached("UPDATE partition SET next_offset = ? WHERE id = ?")?
                .execute(params![next.offset, id])?;
        }
        Ok(())
    }

    /// Opens a producer: the older one of that id is fenced.
    pub(crate) fn open_producer(&self, id: &str) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached(
                "INSERT INTO producer(id, epoch) VALUES(?, 1)
                 ON CONFLICT(id) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
            )?
            .query_row([id], |row| row.get(0))
    }

    /// Refuses a producer that is not the newest of its id.
    pub(crate) fn check_producer(&self, id: &str, epoch: i64) -> Result<(), Fault> {
        let current: Option<i64> = self
            .connection
            .prepare_cached("SELECT epoch FROM producer WHERE id = ?")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if current == Some(epoch) || aqueduct_core::planted("embedded-old-producer-goes-on") {
            return Ok(());
        }
        Err(Fault::Refused(LogError::new(
            LogErrorKind::Fenced,
            format!(
                "producer {id:?} of epoch {epoch} is over: a newer one was opened (epoch {})",
                current.unwrap_or(0)
            ),
        )))
    }

    /// Refuses a settlement of who is not the owner, or of an older generation. Gives the partition's row id.
    pub(crate) fn check_settlement(
        &mut self,
        group: &str,
        member: i64,
        settlement: &Settlement,
    ) -> Result<i64, Fault> {
        let partition = &settlement.partition;
        let missing = || LogError::new(LogErrorKind::TopicMissing, format!("{partition} does not exist"));
        let topic = match self.topics.get(&partition.topic).map(Arc::clone) {
            Some(topic) => topic,
            None => self.shared.topic(&partition.topic).ok_or_else(missing)?,
        };
        let id = topic.partition(partition.partition).map(|found| found.id).ok_or_else(missing)?;
        let current = owner(self.connection, group, id)?;
        if current != Some((Some(member), settlement.generation))
            && !aqueduct_core::planted("embedded-settles-for-anybody")
        {
            return Err(Fault::Refused(stale(group, partition, (member, settlement.generation), current)));
        }
        let (first, end) = range(self.connection, id)?;
        // What this transaction has appended so far counts too.
        let end = self.next.get(&id).map_or(end, |next| next.offset);
        if !(0..=end).contains(&settlement.offset) {
            return Err(Fault::Refused(LogError::new(
                LogErrorKind::OffsetOutOfRange { first, end },
                format!(
                    "group {group} cannot settle {partition} at {}: the log ends at {end}",
                    settlement.offset
                ),
            )));
        }
        Ok(id)
    }

    /// Stores a settlement that was checked. It never goes back: settlements of one owner may come out of order.
    pub(crate) fn settle(&self, group: &str, id: i64, settlement: &Settlement) -> rusqlite::Result<()> {
        if aqueduct_core::planted("embedded-settled-goes-back") {
            self.connection.execute("UPDATE group_partition SET settled = NULL", [])?;
        }
        self.connection
            .prepare_cached(
                "UPDATE group_partition SET settled = ?1, metadata = ?2
                 WHERE group_name = ?3 AND partition_id = ?4 AND (settled IS NULL OR settled <= ?1)",
            )?
            .execute(params![settlement.offset, settlement.metadata, group, id])?;
        Ok(())
    }
}

/// Refuses a generation, or a member, that is not the owner's.
pub(crate) fn stale(
    group: &str,
    partition: &PartitionId,
    (member, generation): (i64, i64),
    current: Option<Owner>,
) -> LogError {
    let why = match current {
        Some((None, _)) | None => "nobody owns it now".to_owned(),
        Some((Some(owner), newest)) if owner == member => format!("its generation is {newest}"),
        Some((Some(owner), newest)) => format!("member {owner} owns it under generation {newest}"),
    };
    LogError::new(
        LogErrorKind::StaleGeneration,
        format!(
            "group {group}: member {member} does not own {partition} under generation {generation}: {why}"
        ),
    )
}

/// The key of a record, for a message.
pub(crate) fn shown_key(record: &NewRecord) -> String {
    match &record.key {
        None => "no key".to_owned(),
        Some(key) => format!("key {}", key[..key.len().min(64)].escape_ascii()),
    }
}
