//! Samples settled offsets while the log is written by others.

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use checker::{Observation, PartitionId, Recorder, now};
use rusqlite::Connection;

use crate::embedded;

const INTERVAL: Duration = Duration::from_millis(100);
/// What does not move is written once in this many microseconds.
const UNCHANGED: u64 = 1_000_000;

const SAMPLE: &str = "SELECT g.group_name, t.name, p.number, g.settled, p.next_offset
    FROM group_partition g JOIN partition p ON p.id = g.partition_id JOIN topic t ON t.id = p.topic_id";

type Sampled = BTreeMap<(String, PartitionId), (u64, Option<i64>, i64)>;

/// Samples until standard input ends.
pub(crate) fn run(log: &Path, recorder: &Recorder) -> anyhow::Result<()> {
    let (told, ended) = channel::<()>();
    thread::spawn(move || {
        // Whether it ends or fails, nobody wants samples any more.
        let ended = std::io::stdin().read_to_end(&mut Vec::new());
        drop(told);
        ended
    });
    let mut connection = None;
    let mut last = Sampled::new();
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        // Before the log is made there is nothing to sample.
        if connection.is_none() && log.exists() {
            connection = Some(embedded::open(log)?);
        }
        if let Some(connection) = &connection {
            sample(connection, recorder, &mut last)?;
        }
    }
    if let Some(connection) = &connection {
        last.clear();
        sample(connection, recorder, &mut last)?;
    }
    Ok(())
}

fn sample(connection: &Connection, recorder: &Recorder, last: &mut Sampled) -> anyhow::Result<()> {
    // A log that is just being made has no tables yet.
    let Ok(mut statement) = connection.prepare_cached(SAMPLE) else { return Ok(()) };
    let rows = statement.query_map([], |row| {
        let shard = PartitionId::new(row.get::<_, String>(1)?, row.get(2)?);
        Ok((row.get(0)?, shard, row.get(3)?, row.get(4)?))
    })?;
    let rows: Vec<(String, PartitionId, Option<i64>, i64)> = rows.collect::<Result<_, _>>()?;
    let at = now();
    for (group, shard, offset, end) in rows {
        let of = (group.clone(), shard.clone());
        let known = last
            .get(&of)
            .is_some_and(|(when, settled, to)| (*settled, *to) == (offset, end) && at - when < UNCHANGED);
        if !known {
            last.insert(of, (at, offset, end));
            recorder.write_as(at, "observer", Observation::Settled { group, shard, offset, end })?;
        }
    }
    Ok(())
}
