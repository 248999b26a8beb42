//! What each command changes: every check comes before the first write, so that a refused one leaves nothing.

use std::sync::atomic::Ordering;

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{LETTER_BYTES, Outcomes, Position},
};

use crate::{
    changes::{Changes, Fault, shown_key},
    command::{Append, Command, Transaction},
    holds::Holds,
    membership,
};

/// Lets a failed database through, keeps a refusal as the command's own result.
pub(crate) fn refused<T>(result: Result<T, Fault>) -> rusqlite::Result<Result<T, LogError>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Fault::Refused(error)) => Ok(Err(error)),
        Err(Fault::Database(error)) => Err(error),
    }
}

pub(crate) fn apply_append<'a>(
    changes: &mut Changes<'a>,
    holds: &mut Holds,
    append: &'a Append,
    spread: &mut i32,
) -> rusqlite::Result<Outcomes> {
    holds.forget_before(append.sequence);
    let mut outcomes = Vec::with_capacity(append.records.len());
    for record in &append.records {
        let result = if holds.holds(record, append.sequence) {
            Err(LogError::new(
                LogErrorKind::Held,
                format!(
                    "an earlier record for {} with {} failed; this one was not stored",
                    record.topic,
                    shown_key(record)
                ),
            ))
        } else {
            refused(
                changes
                    .check(record, 0)
                    .map_err(Fault::Refused)
                    .and_then(|()| changes.place(record, spread))
                    .and_then(|(topic, number)| changes.append(record, &topic, number)),
            )?
        };
        if result.is_err() {
            holds.fail(record);
        }
        outcomes.push(result);
    }
    Ok(outcomes)
}

/// Every check comes before the first write, the making of topics too, so that a refused transaction leaves nothing.
pub(crate) fn apply_transaction<'a>(
    changes: &mut Changes<'a>,
    transaction: &'a Transaction,
    spread: &mut i32,
) -> Result<Vec<Position>, Fault> {
    changes.check_producer(&transaction.producer, transaction.epoch)?;
    let mut settlements = Vec::with_capacity(transaction.settlements.len());
    if let Some((group, member)) = &transaction.group {
        for settlement in &transaction.settlements {
            if aqueduct_core::planted("embedded-commits-for-anybody") {
                continue;
            }
            settlements.push((changes.check_settlement(group, *member, settlement)?, group, settlement));
        }
    }
    for record in &transaction.records {
        changes.check(record, LETTER_BYTES)?;
        changes.check_place(record)?;
    }
    let mut positions = Vec::with_capacity(transaction.records.len());
    for record in &transaction.records {
        let placed = changes.place(record, spread);
        let appended = placed.and_then(|(topic, number)| changes.append(record, &topic, number));
        positions.push(appended.map_err(too_late)?);
    }
    for (id, group, settlement) in settlements {
        changes.settle(group, id, settlement)?;
    }
    Ok(positions)
}

/// A refusal that no check foresaw, such as of a full partition: records before it may be written, so only the end of
/// the whole database transaction leaves nothing.
fn too_late(fault: Fault) -> Fault {
    match fault {
        Fault::Refused(error) => Fault::Database(rusqlite::Error::ToSqlConversionFailure(error.into())),
        database @ Fault::Database(_) => database,
    }
}

/// The change of a group that a command asks for. Gives the id of a member that joins; the rest is told by the database.
pub(crate) fn apply_group(changes: &mut Changes<'_>, command: &Command) -> Result<i64, Fault> {
    match command {
        Command::Join { local, group, topics, .. } => {
            let member = membership::join(changes, group, topics)?;
            changes.joined.insert(*local, member);
            return Ok(member);
        }
        Command::Leave { local, group, id, .. } => {
            // It may have joined in this very transaction.
            let joined = changes.joined.remove(local);
            let member = joined.unwrap_or_else(|| id.load(Ordering::Acquire));
            membership::leave(changes, group, member)?;
        }
        Command::Answer { group, answer } => membership::answer(changes, group, answer)?,
        Command::Tend { group } => membership::tend(changes, group)?,
        _ => {}
    }
    Ok(0)
}
