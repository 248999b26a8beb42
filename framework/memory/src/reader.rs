//! Reads one partition.

use std::{pin::pin, sync::Arc};

use aqueduct_core::{
    BoxFuture, LogError, RecordBatch,
    log::{Offset, PartitionId, PartitionReader, Start},
};
use tokio::sync::Notify;

use crate::{
    consumer::Membership,
    partition::Batch,
    plan::{self, Call, Verdict},
    process::Process,
    state::Shared,
    topics::Topics,
};

#[derive(Debug)]
pub(crate) struct MemoryReader {
    shared: Arc<Shared>,
    process: Arc<Process>,
    /// The consumer that opened it, if one did: it dies with it.
    membership: Option<Arc<Membership>>,
    partition: PartitionId,
    next: Offset,
    grown: Arc<Notify>,
}

impl MemoryReader {
    pub(crate) fn open(
        shared: &Arc<Shared>,
        process: &Arc<Process>,
        membership: Option<Arc<Membership>>,
        topics: &Topics,
        partition: &PartitionId,
        start: Start,
    ) -> Result<Self, LogError> {
        let records = topics.partition(partition)?;
        Ok(Self {
            shared: Arc::clone(shared),
            process: Arc::clone(process),
            membership,
            partition: partition.clone(),
            next: records.resolve(start),
            grown: Arc::clone(records.grown()),
        })
    }

    async fn turn(&self) -> Result<(), LogError> {
        match &self.membership {
            None => self.process.turn().await,
            Some(_) => self.process.consumer_turn().await,
        }
    }

    fn try_read(&self, max: usize) -> Result<Option<Batch>, LogError> {
        let state = self.shared.open()?;
        if let Some(membership) = &self.membership {
            state.group(&membership.group)?.check_client(membership.member)?;
        }
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
            let fate = self.shared.fate(Call::Read);
            plan::wait(fate.before + fate.after).await;
            if let Verdict::Fail(kind) = fate.verdict {
                return Err(plan::error(kind, &self.partition));
            }
            loop {
                self.turn().await?;
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

    fn seek(&mut self, offset: Offset) {
        self.next = offset;
    }
}
