//! Parked keys that are released (RULES R3): each record is read back and attempted in the order of its offset.

use std::sync::Arc;

use aqueduct_core::{
    LogError, LogErrorKind, Record,
    log::{CommitLog, Offset, PartitionId, Start},
};

use crate::{
    aside::Op,
    lanes::{Head, KeyBytes, Origin},
    parking::{self, control::Asked, frame, index::Release},
    partition::{Halt, Partition},
    work::{Finished, Work},
};

impl Partition {
    /// An operator asked for a key.
    pub(super) fn release(&mut self, asked: Asked) {
        let Asked { id, key, .. } = asked;
        match self.parked.get(&key) {
            Some(key) => {
                tracing::info!(
                    subscription = self.shared.subscription.name,
                    partition = %self.assigned.partition,
                    key = %key.escape_ascii(),
                    release = %id,
                    "releasing a parked key"
                );
                self.parked.release(&key, id);
                self.go_on(&key);
            }
            None => self.push_aside(Op::Done { release: id, failure: None }),
        }
    }

    /// Releases the keys whose time has come.
    pub(super) fn release_due(&mut self) {
        if self.parked.next_due().is_none() {
            return;
        }
        for key in self.parked.wake_due(self.shared.bus.environment().now()) {
            self.go_on(&key);
        }
    }

    /// Begins the next record of a released key, unless one is under way.
    pub(super) fn go_on(&mut self, key: &KeyBytes) {
        if self.draining {
            return;
        }
        let Some(next) = self.parked.next(key) else { return };
        let (shared, source) = (Arc::clone(&self.shared), self.assigned.partition.clone());
        let (key, offset, at) = (KeyBytes::clone(key), next.offset, next.copy.at);
        let load = async move {
            let mut failures = 0;
            let loaded = loop {
                match load(&shared.subscription.name, &**shared.bus.log(), &source, offset, at).await {
                    Ok(record) => break Ok(record),
                    Err(error) if error.kind() == LogErrorKind::Unreachable => {
                        failures += 1;
                        let random = shared.bus.environment().random_u64();
                        tokio::time::sleep(shared.subscription.retry.delay(failures, random)).await;
                    }
                    Err(error) => break Err(error.to_string()),
                }
            };
            Finished::Loaded { key, offset, loaded }
        };
        self.running.push(Work::boxed(load));
    }

    /// A released record was read back: it is attempted like any other, in a lane of its own.
    pub(super) fn on_loaded(
        &mut self,
        key: KeyBytes,
        offset: Offset,
        loaded: Result<Loaded, String>,
    ) -> Result<(), Halt> {
        let Loaded { record, attempts } = loaded.map_err(|error| {
            let key = key.escape_ascii();
            Halt::Stop(format!("the parked record of key {key} at offset {offset} cannot be read: {error}"))
        })?;
        if aqueduct_core::planted("end-mark-before-handled") {
            self.push_aside(Op::End { key: KeyBytes::clone(&key), offset, records: Vec::new() });
        }
        let mut head = Head::new(record, Origin::Released);
        if self.parked.release_of(&key) == Some(Release::Due) {
            // It only waited: what was tried before counts. An operator's release begins anew.
            (head.attempts, head.spent) = (attempts, attempts);
        }
        let id = self.lanes.open(Some(key), head);
        self.lanes.make_ready(id);
        Ok(())
    }
}

/// A parked record, read back, with the attempts that it had.
#[derive(Debug)]
pub(crate) struct Loaded {
    record: Record,
    attempts: u32,
}

async fn load(
    group: &str,
    log: &dyn CommitLog,
    source: &PartitionId,
    offset: Offset,
    at: Offset,
) -> Result<Loaded, LogError> {
    let topic = parking::topic_of(group, &source.topic)?;
    let place = PartitionId { topic, partition: source.partition };
    let mut reader = log.cursor(&place, Start::Offset(at)).await?;
    let missing = || LogError::new(LogErrorKind::Corrupt, format!("{place}@{at} is not there any more"));
    let batch = reader.read(1).await?;
    let copy = Record::new(batch, 0).filter(|copy| copy.offset() == at).ok_or_else(missing)?;
    let frame = frame::read(copy.value().unwrap_or_default()).map_err(|error| {
        LogError::with_source(LogErrorKind::Corrupt, format!("the parked record {copy:?}"), error)
    })?;
    let attempts = frame.description.attempts;
    Ok(Loaded { record: frame.into_record(source.topic.clone(), source.partition, offset), attempts })
}
