//! Compaction: of each key of a compacted topic only the last record need be kept.
//!
//! A pass first maps keys to their last offset, over what was appended since the pass before, then sweeps the
//! partition from its start and removes what the map supersedes. Records without a key, the last record of each key
//! and the partition's last offset stay. A tombstone that is the last of its key stays too until its timestamp is
//! older than the topic's retention, or a day where it has none; so a reader that starts from the beginning and
//! takes less than that sees every deletion.

use std::{collections::HashMap, time::Duration};

use aqueduct_core::{
    Timestamp,
    log::{Offset, TopicSpec},
};
use rusqlite::params;

use crate::{
    batch::{offset_of, record_id},
    maintenance::{STEP_ROWS, Work},
};

/// How long tombstones stay where the topic has no retention.
const TOMBSTONES: Duration = Duration::from_hours(24);
/// The most bytes of keys that one pass maps; what comes after is left to the next.
const MAP_BYTES: usize = 32 << 20;
/// What a key costs beside its bytes.
const KEY_COST: usize = 64;

/// How far a partition was compacted.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) below: Offset,
    /// Whether tombstones were left that will be removable later.
    tombstones: bool,
}

/// One partition's pass.
#[derive(Debug)]
pub(crate) struct Task {
    id: i64,
    /// Tombstones with an older timestamp may go.
    tombstones_before: i64,
    last: HashMap<Vec<u8>, Offset>,
    bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Map { from: Offset },
    Sweep { from: Offset, below: Offset, tombstones: bool },
}

impl Task {
    pub(crate) fn map(id: i64, from: Offset, spec: &TopicSpec, now: Timestamp) -> Self {
        let keep = spec.retention.unwrap_or(TOMBSTONES);
        let tombstones_before = now.saturating_sub(keep).as_micros();
        Self { id, tombstones_before, last: HashMap::new(), bytes: 0, state: State::Map { from } }
    }
}

/// Does one step. Gives what is left to do.
pub(crate) fn step(
    work: &Work<'_>,
    mut task: Task,
    done: &mut HashMap<i64, Done>,
) -> rusqlite::Result<Option<Task>> {
    task.state = match task.state {
        State::Map { from } => {
            let below = map(work, &mut task, from)?;
            let (first, end) = work.range(task.id)?;
            if below < end && task.bytes < MAP_BYTES {
                State::Map { from: below }
            } else if task.last.is_empty() && !done.get(&task.id).is_some_and(|done| done.tombstones) {
                done.insert(task.id, Done { below, tombstones: false });
                return Ok(None);
            } else {
                State::Sweep { from: first, below, tombstones: false }
            }
        }
        State::Sweep { from, below, mut tombstones } => {
            let next = sweep(work, &task, from, below, &mut tombstones)?;
            if next < below {
                State::Sweep { from: next, below, tombstones }
            } else {
                done.insert(task.id, Done { below, tombstones });
                let (_, end) = work.range(task.id)?;
                if task.bytes < MAP_BYTES || below >= end {
                    return Ok(None);
                }
                task.last.clear();
                task.bytes = 0;
                State::Map { from: below }
            }
        }
    };
    Ok(Some(task))
}

/// Takes the keys of the next rows into the map. Gives where to go on.
fn map(work: &Work<'_>, task: &mut Task, from: Offset) -> rusqlite::Result<Offset> {
    let (_, end) = work.range(task.id)?;
    let mut statement = work
        .connection
        .prepare_cached("SELECT id, key FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?")?;
    let mut found = statement.query(params![record_id(task.id, from), record_id(task.id, end), STEP_ROWS])?;
    let (mut rows, mut below) = (0, end);
    while let Some(row) = found.next()? {
        let offset = offset_of(row.get(0)?);
        rows += 1;
        if rows == STEP_ROWS {
            below = offset + 1;
        }
        let Some(key) = row.get_ref(1)?.as_blob_or_null()? else { continue };
        match task.last.get_mut(key) {
            Some(last) => *last = offset,
            None => {
                task.bytes += key.len() + KEY_COST;
                task.last.insert(key.to_owned(), offset);
            }
        }
    }
    Ok(below)
}

/// Removes what is superseded among the next rows. Gives where to go on.
fn sweep(
    work: &Work<'_>,
    task: &Task,
    from: Offset,
    below: Offset,
    tombstones: &mut bool,
) -> rusqlite::Result<Offset> {
    let (_, end) = work.range(task.id)?;
    let mut remove = Vec::new();
    let (mut rows, mut next) = (0, below);
    {
        let mut statement = work.connection.prepare_cached(
            "SELECT id, key, value IS NULL, timestamp FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        )?;
        let mut found =
            statement.query(params![record_id(task.id, from), record_id(task.id, below), STEP_ROWS])?;
        while let Some(row) = found.next()? {
            let row_id: i64 = row.get(0)?;
            let offset = offset_of(row_id);
            rows += 1;
            if rows == STEP_ROWS {
                next = offset + 1;
            }
            let Some(key) = row.get_ref(1)?.as_blob_or_null()? else { continue };
            let superseded = task.last.get(key).is_some_and(|last| offset < *last);
            let tombstone: bool = row.get(2)?;
            // Everything that it deletes was removed by this sweep or one before: the sweep goes upwards.
            let expired = tombstone && row.get::<_, i64>(3)? < task.tombstones_before && offset + 1 < end;
            if superseded || expired {
                remove.push(row_id);
            } else {
                *tombstones |= tombstone;
            }
        }
    }
    if !remove.is_empty() {
        work.write(|| {
            let mut statement = work.connection.prepare_cached("DELETE FROM record WHERE id = ?")?;
            for id in &remove {
                statement.execute([id])?;
            }
            Ok(())
        })?;
    }
    Ok(next)
}
