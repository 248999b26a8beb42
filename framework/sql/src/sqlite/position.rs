//! Positions: one row per (subscription, topic id, partition), with the owner's generation and the settled offset.
//! Marks: the offsets at or above it that have ended, and the ids of events.

use aqueduct_core::{
    effects::{Claim, EventMark, Place, Scope, Taken},
    log::Offset,
};
use rusqlite::{Connection, OptionalExtension, params};

/// Raises the generation: from this commit on, no older owner writes.
pub(super) fn take(conn: &Connection, scope: &Scope) -> rusqlite::Result<Taken> {
    conn.prepare_cached("INSERT INTO aqueduct_scope (subscription) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([&scope.subscription])?;
    let (row, generation, settled): (i64, i64, Option<Offset>) = conn
        .prepare_cached(
            "INSERT INTO aqueduct_position (subscription, topic_id, partition, generation, scope)
             SELECT ?1, ?2, ?3, 1, id FROM aqueduct_scope WHERE subscription = ?1
             ON CONFLICT (subscription, topic_id, partition) DO UPDATE SET generation = generation + 1
             RETURNING id, generation, settled",
        )?
        .query_row(
            params![scope.subscription, scope.topic_id.as_bytes(), scope.partition.partition],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
    let mut generation = generation;
    if aqueduct_core::planted("take-does-not-raise") && generation > 1 {
        generation -= 1;
        conn.execute("UPDATE aqueduct_position SET generation = ?1 WHERE id = ?2", [generation, row])?;
    }
    let mut marks = conn.prepare_cached(
        "SELECT offset FROM aqueduct_mark WHERE position = ?1 AND offset >= ?2 ORDER BY offset",
    )?;
    let ended = marks
        .query_map(params![row, settled.unwrap_or(Offset::MIN)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(Taken { claim: Claim { row, generation }, settled, ended })
}

/// Raises the settled offset, never lowers it. `false`: the claim is void.
pub(super) fn raise(conn: &Connection, claim: Claim, settled: Offset) -> rusqlite::Result<bool> {
    if aqueduct_core::planted("settled-goes-back") {
        conn.execute("UPDATE aqueduct_position SET settled = NULL WHERE id = ?1", [claim.row])?;
    }
    let claim = newest(conn, claim, aqueduct_core::planted("raise-ignores-generation"))?;
    let raised: Option<Offset> = conn
        .prepare_cached(
            "UPDATE aqueduct_position SET settled = max(coalesce(settled, ?3), ?3)
             WHERE id = ?1 AND generation = ?2 RETURNING settled",
        )?
        .query_row(params![claim.row, claim.generation, settled], |row| row.get(0))
        .optional()?;
    let Some(mut settled) = raised else { return Ok(false) };
    if aqueduct_core::planted("marks-go-early") {
        settled = Offset::MAX;
    }
    conn.prepare_cached("DELETE FROM aqueduct_mark WHERE position = ?1 AND offset < ?2")?
        .execute([claim.row, settled])?;
    Ok(true)
}

/// A claim as it is; of a bug that is planted, one that is always the newest.
fn newest(conn: &Connection, claim: Claim, planted: bool) -> rusqlite::Result<Claim> {
    if !planted {
        return Ok(claim);
    }
    let sql = "SELECT generation FROM aqueduct_position WHERE id = ?1";
    Ok(Claim { generation: conn.query_row(sql, [claim.row], |row| row.get(0))?, ..claim })
}

/// Whether a delivery has ended. One in its turn: it is below the settled offset, or marked. A released one: it is
/// marked, or its event is.
pub(super) fn ended(
    conn: &Connection,
    claim: Claim,
    place: Place,
    event: Option<&EventMark>,
) -> rusqlite::Result<bool> {
    match place {
        Place::Live(offset) => conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM aqueduct_position WHERE id = ?1 AND settled > ?2)
                     OR EXISTS (SELECT 1 FROM aqueduct_mark WHERE position = ?1 AND offset = ?2)",
            )?
            .query_row([claim.row, offset], |row| row.get(0)),
        Place::Released(offset) => conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM aqueduct_mark WHERE position = ?1 AND offset = ?2)
                     OR EXISTS (SELECT 1 FROM aqueduct_event_mark m
                                JOIN aqueduct_position p ON p.scope = m.scope WHERE p.id = ?1 AND m.event = ?3)",
            )?
            .query_row(params![claim.row, offset, event], |row| row.get(0)),
    }
}

/// What marking a delivery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    New,
    Ended,
    Fenced,
}

/// Marks a delivery by position and by event id, under the claim's generation. A released one that the settled offset
/// has passed is marked by event id alone.
pub(super) fn mark(
    conn: &Connection,
    claim: Claim,
    place: Place,
    event: Option<&EventMark>,
    now: i64,
) -> rusqlite::Result<Marked> {
    let claim = newest(conn, claim, aqueduct_core::planted("begin-ignores-generation"))?;
    // The usual case is one statement: the generation holds, the offset is not settled, the mark is new.
    let marked = conn
        .prepare_cached(
            "INSERT INTO aqueduct_mark (position, offset)
             SELECT id, ?3 FROM aqueduct_position
             WHERE id = ?1 AND generation = ?2 AND (settled IS NULL OR settled <= ?3)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![claim.row, claim.generation, place.offset()])?;
    if marked == 0 {
        let current: Option<(i64, bool)> = conn
            .prepare_cached(
                "SELECT generation, settled IS NOT NULL AND settled > ?2 FROM aqueduct_position WHERE id = ?1",
            )?
            .query_row([claim.row, place.offset()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match current.filter(|(generation, _)| *generation == claim.generation) {
            None => return Ok(Marked::Fenced),
            Some(_) if aqueduct_core::planted("position-mark-ignored") => {}
            Some((_, true))
                if matches!(place, Place::Released(_))
                    && !aqueduct_core::planted("released-judged-by-settled-offset") => {}
            Some(_) => return Ok(Marked::Ended),
        }
    }
    let Some(event) = event.filter(|_| !aqueduct_core::planted("event-mark-skipped")) else {
        return Ok(Marked::New);
    };
    let marked = conn
        .prepare_cached(
            "INSERT INTO aqueduct_event_mark (scope, event, at)
             SELECT scope, ?2, ?3 FROM aqueduct_position WHERE id = ?1
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![claim.row, event, now])?;
    Ok(if marked == 0 { Marked::Ended } else { Marked::New })
}
