//! Samples settled offsets while the log is written by others.

use std::path::Path;

use checker::{PartitionId, Recorder, Sampler, now};
use rusqlite::Connection;

use crate::embedded;

const SAMPLE: &str = "SELECT g.group_name, t.name, p.number, g.settled, p.next_offset
    FROM group_partition g JOIN partition p ON p.id = g.partition_id JOIN topic t ON t.id = p.topic_id";

/// Samples until standard input ends.
pub(crate) fn run(log: &Path, recorder: &Recorder) -> anyhow::Result<()> {
    let mut connection = None;
    let mut sampler = Sampler::new(recorder);
    checker::until_told(|last| {
        // Before the log is made there is nothing to sample.
        if connection.is_none() && log.exists() {
            connection = Some(embedded::open(log)?);
        }
        if last {
            sampler.forget();
        }
        connection.as_ref().map_or(Ok(()), |connection| sample(connection, &mut sampler))
    })
}

fn sample(connection: &Connection, sampler: &mut Sampler<'_>) -> anyhow::Result<()> {
    // A log that is just being made has no tables yet.
    let Ok(mut statement) = connection.prepare_cached(SAMPLE) else { return Ok(()) };
    let rows = statement.query_map([], |row| {
        let shard = PartitionId::new(row.get::<_, String>(1)?, row.get(2)?);
        Ok((row.get(0)?, shard, row.get(3)?, row.get(4)?))
    })?;
    let rows: Vec<(String, PartitionId, Option<i64>, i64)> = rows.collect::<Result<_, _>>()?;
    let at = now();
    for (group, shard, offset, end) in rows {
        sampler.see(at, &group, shard, (offset, end))?;
    }
    Ok(())
}
