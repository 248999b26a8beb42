//! Retention by time and by size: the oldest records of a partition go, and its first offset rises.

use aqueduct_core::log::Offset;
use rusqlite::{OptionalExtension, params};

use crate::{
    batch::{offset_of, record_id},
    maintenance::{STEP_ROWS, Work},
};

/// One partition's retention.
#[derive(Debug)]
pub(crate) enum Task {
    /// Removes what is older, up to the first record that is not.
    Age { id: i64, before: i64 },
    /// Adds sizes up from the newest record down, until `limit` is passed.
    Measure { id: i64, limit: u64, below: Option<Offset>, total: u64 },
    /// Removes what lies below an offset.
    Cut { id: i64, below: Offset },
}

impl Task {
    pub(crate) fn measure(id: i64, limit: u64) -> Self {
        Self::Measure { id, limit, below: None, total: 0 }
    }
}

/// Does one step. Gives what is left to do.
pub(crate) fn step(work: &Work<'_>, task: &Task) -> rusqlite::Result<Option<Task>> {
    match *task {
        Task::Age { id, before } => age(work, id, before),
        Task::Measure { id, limit, below, total } => measure(work, id, limit, below, total),
        Task::Cut { id, below } => cut(work, id, below),
    }
}

fn age(work: &Work<'_>, id: i64, before: i64) -> rusqlite::Result<Option<Task>> {
    let (first, end) = work.range(id)?;
    let mut below = first;
    let mut rows = 0;
    {
        let mut statement = work.connection.prepare_cached(
            "SELECT id, timestamp FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        )?;
        let mut found = statement.query(params![record_id(id, first), record_id(id, end), STEP_ROWS])?;
        while let Some(row) = found.next()? {
            if row.get::<_, i64>(1)? >= before {
                break;
            }
            below = offset_of(row.get(0)?) + 1;
            rows += 1;
        }
    }
    if below == first {
        return Ok(None);
    }
    remove(work, id, first, below)?;
    Ok((rows == STEP_ROWS).then_some(Task::Age { id, before }))
}

fn measure(
    work: &Work<'_>,
    id: i64,
    limit: u64,
    below: Option<Offset>,
    mut total: u64,
) -> rusqlite::Result<Option<Task>> {
    let (first, end) = work.range(id)?;
    let mut statement = work.connection.prepare_cached(
        "SELECT id, ifnull(length(key), 0) + length(headers) + ifnull(length(value), 0)
         FROM record WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?",
    )?;
    let upper = record_id(id, below.unwrap_or(end));
    let mut found = statement.query(params![record_id(id, first), upper, STEP_ROWS])?;
    let (mut rows, mut lowest) = (0, first);
    while let Some(row) = found.next()? {
        lowest = offset_of(row.get(0)?);
        total = total.saturating_add(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
        if total > limit {
            return Ok(Some(Task::Cut { id, below: lowest + 1 }));
        }
        rows += 1;
    }
    Ok((rows == STEP_ROWS).then_some(Task::Measure { id, limit, below: Some(lowest), total }))
}

fn cut(work: &Work<'_>, id: i64, below: Offset) -> rusqlite::Result<Option<Task>> {
    let (first, _) = work.range(id)?;
    if first >= below {
        return Ok(None);
    }
    let step: Option<i64> = work
        .connection
        .prepare_cached("SELECT id FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?")?
        .query_row(params![record_id(id, first), record_id(id, below), STEP_ROWS], |row| row.get(0))
        .optional()?;
    let to = step.map_or(below, offset_of);
    remove(work, id, first, to)?;
    Ok((to < below).then_some(Task::Cut { id, below }))
}

fn remove(work: &Work<'_>, id: i64, first: Offset, below: Offset) -> rusqlite::Result<()> {
    work.write(|| {
        work.connection
            .prepare_cached("DELETE FROM record WHERE id >= ? AND id < ?")?
            .execute(params![record_id(id, first), record_id(id, below)])?;
        // Another process may have gone further meanwhile.
        work.connection
            .prepare_cached("UPDATE partition SET start_offset = max(start_offset, ?) WHERE id = ?")?
            .execute(params![below, id])?;
        Ok(())
    })
}
