//! Moves staged events to the log, in id order, exactly once: the cursor is a record in the same transaction.

use std::time::Duration;

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, TopicName,
    effects::{EffectsError, Relay, RelayMode},
    environment::Clock,
    log::{CommitLog, Offset, PartitionId, Start, TopicSpec, TransactionalProducer},
};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{
    database::Database,
    tables::{Lease, Staged},
};

const LEASE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);
const BATCH: usize = 50;

enum End {
    Stopped,
    Deposed,
    Again(String),
}

impl From<LogError> for End {
    fn from(error: LogError) -> Self {
        match error.kind() {
            LogErrorKind::Fenced => Self::Deposed,
            _ => Self::Again(error.to_string()),
        }
    }
}

impl From<EffectsError> for End {
    fn from(error: EffectsError) -> Self {
        Self::Again(error.to_string())
    }
}

pub(crate) async fn run(database: Database, relay: Relay) -> Result<(), EffectsError> {
    let Relay { outbox, mode, log, report, mut stop, .. } = relay;
    let failed = |why: &str| EffectsError::new(format!("relay of outbox {outbox}"), why);
    if mode != RelayMode::ExactlyOnce {
        return Err(failed("the simulation has the exactly-once mode only"));
    }
    let term = loop {
        database.process.turn().await?;
        if let Some(term) = acquire(&database) {
            break term;
        }
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            () = sleep(LOOK) => {}
        }
    };
    let leader = Leader { database, outbox: outbox.clone(), term };
    loop {
        let ended = tokio::select! {
            biased;
            ended = leader.lead(&*log, &report) => ended,
            // What was in flight is dropped with the future: the log's cursor tells the next leader.
            () = &mut stop => End::Stopped,
        };
        match ended {
            End::Stopped => {
                leader.release();
                return Ok(());
            }
            End::Deposed => return Err(failed("deposed: a newer relay leads")),
            End::Again(why) => report(Some(why)),
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                leader.release();
                return Ok(());
            }
            () = sleep(LOOK) => {}
        }
    }
}

/// Takes the lease where nobody holds it; the result is the term.
fn acquire(database: &Database) -> Option<u64> {
    let mut tables = database.stored.tables();
    let now = Instant::now();
    let held = tables.lease.is_some_and(|lease| lease.until.is_some_and(|until| until > now));
    if held {
        return None;
    }
    let term = tables.lease.map_or(0, |lease| lease.term) + 1;
    tables.lease = Some(Lease { term, until: Some(now + LEASE) });
    Some(term)
}

struct Leader {
    database: Database,
    outbox: String,
    term: u64,
}

impl Leader {
    /// Confirms the term, and prolongs the lease.
    async fn renew(&self) -> Result<(), End> {
        self.database.process.turn().await?;
        let mut tables = self.database.stored.tables();
        match &mut tables.lease {
            Some(lease) if lease.term == self.term => {
                lease.until = Some(Instant::now() + LEASE);
                Ok(())
            }
            _ => Err(End::Deposed),
        }
    }

    fn release(&self) {
        let mut tables = self.database.stored.tables();
        if let Some(lease) = tables.lease.as_mut().filter(|lease| lease.term == self.term) {
            lease.until = None;
        }
    }

    async fn lead(&self, log: &dyn CommitLog, report: &aqueduct_core::effects::Report) -> End {
        let Err(end) = self.publish(log, report).await;
        end
    }

    async fn publish(
        &self,
        log: &dyn CommitLog,
        report: &aqueduct_core::effects::Report,
    ) -> Result<std::convert::Infallible, End> {
        let topic = TopicName::new(&format!("{}.outbox", self.outbox)).map_err(LogError::from)?;
        let spec = TopicSpec { partitions: Some(1), compacted: true, ..TopicSpec::new(topic.clone()) };
        log.ensure_topic(spec).await?;
        let mut producer = log.transactional_producer(&format!("aqueduct.outbox.{}", self.outbox)).await?;
        self.renew().await?;
        self.advance(read_cursor(log, &topic).await?);
        loop {
            let staged = self.database.stored.staged.notified();
            self.renew().await?;
            let batch = self.batch();
            if batch.is_empty() {
                report(None);
                tokio::select! {
                    biased;
                    () = staged => {}
                    () = sleep(LOOK) => {}
                }
                continue;
            }
            self.move_batch(&mut *producer, &topic, batch).await?;
        }
    }

    fn batch(&self) -> Vec<Staged> {
        let tables = self.database.stored.tables();
        tables.outbox.iter().filter(|staged| staged.id > tables.cursor).take(BATCH).cloned().collect()
    }

    async fn move_batch(
        &self,
        producer: &mut dyn TransactionalProducer,
        topic: &TopicName,
        batch: Vec<Staged>,
    ) -> Result<(), End> {
        let Some(cursor) = batch.last().map(|staged| staged.id) else { return Ok(()) };
        let mark = NewRecord {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(Bytes::from_static(b"cursor")),
            headers: Headers::default(),
            value: Some(Bytes::copy_from_slice(&cursor.to_be_bytes())),
            timestamp: self.database.process.clock.now(),
        };
        let records = batch.into_iter().map(|staged| staged.record).chain([mark]).collect();
        producer.commit(records, None).await?;
        self.renew().await?;
        self.advance(cursor);
        Ok(())
    }

    fn advance(&self, cursor: i64) {
        let mut tables = self.database.stored.tables();
        tables.cursor = tables.cursor.max(cursor);
        let moved = tables.cursor;
        tables.outbox.retain(|staged| staged.id > moved);
    }
}

/// The last staged event that the log has.
async fn read_cursor(log: &dyn CommitLog, topic: &TopicName) -> Result<i64, LogError> {
    let end = log.end_offsets(topic).await?.first().copied().unwrap_or(0);
    let partition = PartitionId { topic: topic.clone(), partition: 0 };
    let mut reader = log.cursor(&partition, Start::Earliest).await?;
    let mut cursor = 0;
    let mut seen: Offset = 0;
    while seen < end {
        let batch = reader.read(1_000).await?;
        for record in Record::all(&batch) {
            let value: Option<[u8; 8]> = record.value().and_then(|value| value.try_into().ok());
            cursor = value.map_or(cursor, i64::from_be_bytes);
        }
        seen = reader.position();
    }
    Ok(cursor)
}
