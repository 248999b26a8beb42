//! Reads a partition of a topic of ours from its first record on.

use aqueduct_core::{
    LogError, Record,
    log::{CommitLog, Offset, PartitionId, Start},
};

/// Records asked of the reader at once.
const READ_BATCH: usize = 512;

/// Shows each record before `end`, waiting for those that cannot be read yet.
pub(crate) async fn scan(
    log: &dyn CommitLog,
    partition: &PartitionId,
    end: Offset,
    mut each: impl FnMut(Record) -> Result<(), LogError> + Send,
) -> Result<(), LogError> {
    let mut reader = log.cursor(partition, Start::Earliest).await?;
    while reader.position() < end {
        Record::all(&reader.read(READ_BATCH).await?).try_for_each(&mut each)?;
    }
    Ok(())
}
