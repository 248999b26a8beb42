//! Gives all partitions of a replay to it, and reads each within its range.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, Record, RecordBatch, Timestamp, TopicName,
    log::{
        Assignment, CommitLog, Consumer, GroupToken, Offset, PartitionId, PartitionReader, Settlement,
        Signal, Start,
    },
    record::HeaderRef,
};

use super::range::{Part, Range};

/// In the place of a member of a group.
#[derive(Debug)]
pub(crate) struct Cursors {
    range: Arc<Range>,
    log: Arc<dyn CommitLog>,
    given: AtomicBool,
}

impl Cursors {
    pub(crate) fn new(range: Arc<Range>, log: Arc<dyn CommitLog>) -> Self {
        Self { range, log, given: AtomicBool::new(false) }
    }

    async fn open(&self, id: &PartitionId, start: Start) -> Result<Box<dyn PartitionReader>, LogError> {
        // Another start than at an offset: nothing of it was settled, so it is where the range begins.
        let start = if let Start::Offset(offset) = start { Some(offset) } else { None };
        let Part { from: stands, until, reader } = self.range.part(id, start)?;
        let inner = match reader {
            Some(reader) if reader.position() == stands => Some(reader),
            _ if stands >= until => None,
            _ => Some(self.log.cursor(id, Start::Offset(stands)).await?),
        };
        Ok(Box::new(Within { id: id.clone(), inner, stands, until, range: Arc::clone(&self.range) }))
    }
}

impl Consumer for Cursors {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async move {
            if self.given.swap(true, Ordering::Relaxed) {
                return pending().await;
            }
            Ok(Signal::Assigned(self.range.assignments()))
        })
    }

    /// Once each: asked a second time after it was fenced in a database, another run of the replay has it.
    fn confirm(&self, mut assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        assignments.retain(|assignment| self.range.confirm(&assignment.partition));
        Box::pin(async move { Ok(assignments) })
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(async move {
            let mut readers = Vec::with_capacity(starts.len());
            for (assignment, start) in starts {
                readers.push(self.open(&assignment.partition, start).await?);
            }
            Ok(readers)
        })
    }

    fn revoked(&self, _: &[PartitionId]) {}

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            let kept = match &self.range.checkpoint {
                Some(checkpoint) => checkpoint.keep(&settlements, &self.range).await,
                None => Ok(()),
            };
            if let Err(error) = &kept
                && !matches!(
                    error.kind(),
                    LogErrorKind::Unreachable | LogErrorKind::UnknownOutcome | LogErrorKind::Held
                )
            {
                self.range.refuse(error.clone());
            }
            let each = settlements.iter().map(|settlement| {
                if kept.is_ok() {
                    self.range.settle(&settlement.partition, settlement.offset);
                }
                kept.clone()
            });
            each.collect()
        })
    }

    fn group_token(&self) -> GroupToken {
        GroupToken(Arc::new(()))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Reads a partition up to where its range ends; from then on there is nothing more.
#[derive(Debug)]
struct Within {
    id: PartitionId,
    /// None where the range is over.
    inner: Option<Box<dyn PartitionReader>>,
    stands: Offset,
    until: Offset,
    range: Arc<Range>,
}

impl Within {
    async fn next(&mut self, max: usize) -> Result<Arc<dyn RecordBatch>, LogError> {
        let inner = match &mut self.inner {
            Some(inner) if self.stands < self.until => inner,
            _ => return pending().await,
        };
        let max = match &self.range.pace {
            Some(pace) => {
                self.range.pace(&self.id, true);
                let turn = pace.turn(max).await;
                self.range.pace(&self.id, false);
                turn
            }
            None => max,
        };
        let batch = inner.read(max).await?;
        // Nothing is awaited from here on: a dropped read loses none.
        if let Some(pace) = &self.range.pace {
            pace.give_back(max.saturating_sub(batch.len()));
        }
        if aqueduct_core::planted("replay-past-its-end") {
            self.stands = inner.position();
            return Ok(batch);
        }
        self.stands = inner.position().min(self.until);
        if self.stands >= self.until {
            // It would read ahead for nobody.
            self.inner = None;
        }
        let within = |record: &Record| record.offset() < self.until;
        let len = Record::all(&batch).take_while(within).count();
        Ok(if len == batch.len() { batch } else { Arc::new(Cut { batch, len }) })
    }
}

impl PartitionReader for Within {
    fn position(&self) -> Offset {
        self.stands
    }

    fn read(&mut self, max: usize) -> BoxFuture<'_, Result<Arc<dyn RecordBatch>, LogError>> {
        Box::pin(self.next(max))
    }

    fn seek(&mut self, offset: Offset) {
        self.stands = offset;
        if let Some(inner) = &mut self.inner {
            inner.seek(offset);
        }
    }
}

/// The first records of a batch.
#[derive(Debug)]
struct Cut {
    batch: Arc<dyn RecordBatch>,
    len: usize,
}

impl RecordBatch for Cut {
    fn topic(&self) -> &TopicName {
        self.batch.topic()
    }

    fn partition(&self) -> i32 {
        self.batch.partition()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn offset(&self, index: usize) -> Offset {
        self.batch.offset(index)
    }

    fn timestamp(&self, index: usize) -> Timestamp {
        self.batch.timestamp(index)
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        self.batch.key(index)
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        self.batch.value(index)
    }

    fn visit_headers<'a>(&'a self, index: usize, visit: &mut dyn FnMut(HeaderRef<'a>)) {
        self.batch.visit_headers(index, visit);
    }
}
