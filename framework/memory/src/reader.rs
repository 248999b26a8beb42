//! Reads one partition.

use std::{pin::pin, sync::Arc};

use aqueduct_core::{
    BoxFuture, LogError, RecordBatch,
    log::{Offset, PartitionId, PartitionReader, Start},
};
use tokio::sync::Notify;

use crate::{partition::Batch, state::Shared, topics::Topics};

#[derive(Debug)]
pub(crate) struct MemoryReader {
    shared: Arc<Shared>,
    partition: PartitionId,
    next: Offset,
    grown: Arc<Notify>,
}

impl MemoryReader {
    pub(crate) fn open(
        shared: &Arc<Shared>,
        topics: &Topics,
        partition: &PartitionId,
        start: Start,
    ) -> Result<Self, LogError> {
        let records = topics.partition(partition)?;
        Ok(Self {
            shared: Arc::clone(shared),
            partition: partition.clone(),
            next: records.resolve(start),
            grown: Arc::clone(records.grown()),
        })
    }

    fn try_read(&self, max: usize) -> Result<Option<Batch>, LogError> {
        let state = self.shared.open()?;
        let entries = state.topics.partition(&self.partition)?.read(&self.partition, self.next, max)?;
        Ok(Batch::new(self.partition.clone(), entries))
    }
}

impl PartitionReader for MemoryReader {
    fn position(&self) -> Offset {
        self.next
    }

    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        Box::pin(async move {
            loop {
                // Enabled before looking, so that an append between the look and the wait is not missed.
                let mut grown = pin!(self.grown.notified());
                grown.as_mut().enable();
                if let Some(batch) = self.try_read(max)? {
                    self.next = batch.next();
                    return Ok(Arc::new(batch) as Arc<dyn RecordBatch>);
                }
                grown.await;
            }
        })
    }
}
