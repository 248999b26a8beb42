//! What each command changes: every check comes before the first write, so that a refused one leaves nothing.

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Assignment, LETTER_BYTES, Outcomes, Position},
};

use crate::{
    changes::{Changes, Fault, shown_key},
    command::{Append, Transaction},
    groups::{Delivery, Give},
    holds::Holds,
};

/// Lets a failed database through, keeps a refusal as the command's own result.
pub(crate) fn refused<T>(result: Result<T, Fault>) -> rusqlite::Result<Result<T, LogError>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Fault::Refused(error)) => Ok(Err(error)),
        Err(Fault::Database(error)) => Err(error),
    }
}

pub(crate) fn apply_append(
    changes: &mut Changes<'_>,
    holds: &mut Holds,
    append: &Append,
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
pub(crate) fn apply_transaction(
    changes: &mut Changes<'_>,
    transaction: &Transaction,
    spread: &mut i32,
) -> Result<Vec<Position>, Fault> {
    changes.check_producer(&transaction.producer, transaction.epoch)?;
    let mut settlements = Vec::with_capacity(transaction.settlements.len());
    if let Some(group) = &transaction.group {
        for settlement in &transaction.settlements {
            settlements.push((changes.check_settlement(group, settlement)?, group, settlement));
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

pub(crate) fn apply_deliveries(
    changes: &mut Changes<'_>,
    group: &str,
    deliveries: &[Delivery],
) -> rusqlite::Result<Vec<Vec<Assignment>>> {
    let mut all = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let mut assignments = Vec::new();
        if let Give::Assign(partitions) = &delivery.give {
            for partition in partitions {
                let topic = changes.topic(&partition.topic)?;
                let Some(found) = topic.partition(partition.partition) else { continue };
                let (generation, settled) = changes.raise(group, found.id)?;
                assignments.push(Assignment {
                    partition: partition.clone(),
                    topic_id: topic.info.id,
                    generation,
                    settled,
                });
            }
        }
        all.push(assignments);
    }
    Ok(all)
}
