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

/// A position's row. Within a group of turns only `take` and `raise` change it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) row: i64,
    generation: i64,
    settled: Option<Offset>,
    scope: i64,
}

/// Reads a position's row.
pub(super) fn standing(conn: &Connection, row: i64) -> rusqlite::Result<Option<Standing>> {
    conn.prepare_cached("SELECT generation, settled, scope FROM aqueduct_position WHERE id = ?1")?
        .query_row([row], |columns| {
            let (generation, settled, scope) = (columns.get(0)?, columns.get(1)?, columns.get(2)?);
            Ok(Standing { row, generation, settled, scope })
        })
        .optional()
}

/// The marks that a turn has made.
#[derive(Debug, Default)]
pub(super) struct Marks {
    position: Option<(i64, Offset)>,
    event: Option<(i64, EventMark)>,
}

impl Marks {
    /// Takes them back. They are not within the turn's savepoint: a page that is changed for the first time in a
    /// savepoint is copied, and each mark is on a page of its own.
    pub(super) fn undo(self, conn: &Connection) -> rusqlite::Result<()> {
        if let Some((row, offset)) = self.position {
            conn.prepare_cached("DELETE FROM aqueduct_mark WHERE position = ?1 AND offset = ?2")?
                .execute([row, offset])?;
        }
        if let Some((scope, event)) = self.event {
            conn.prepare_cached("DELETE FROM aqueduct_event_mark WHERE scope = ?1 AND event = ?2")?
                .execute(params![scope, event])?;
        }
        Ok(())
    }
}

/// Marks a delivery by position and by event id, under the claim's generation. A released one that the settled offset
/// has passed is marked by event id alone.
///
/// Each statement is of one row and of values: one that selects opens a savepoint of its own.
pub(super) fn mark(
    conn: &Connection,
    standing: &Standing,
    claim: Claim,
    place: Place,
    event: Option<&EventMark>,
    now: i64,
    marks: &mut Marks,
) -> rusqlite::Result<Marked> {
    if standing.generation != claim.generation && !aqueduct_core::planted("begin-ignores-generation") {
        return Ok(Marked::Fenced);
    }
    let offset = place.offset();
    let passed = standing.settled.is_some_and(|settled| settled > offset);
    if !passed {
        let marked = conn
            .prepare_cached(
                "INSERT INTO aqueduct_mark (position, offset) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            )?
            .execute([standing.row, offset])?;
        marks.position = (marked > 0).then_some((standing.row, offset));
    }
    let beside = passed
        && matches!(place, Place::Released(_))
        && !aqueduct_core::planted("released-judged-by-settled-offset");
    if marks.position.is_none() && !beside && !aqueduct_core::planted("position-mark-ignored") {
        return Ok(Marked::Ended);
    }
    let Some(event) = event.filter(|_| !aqueduct_core::planted("event-mark-skipped")) else {
        return Ok(Marked::New);
    };
    let marked = conn
        .prepare_cached(
            "INSERT INTO aqueduct_event_mark (scope, event, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![standing.scope, event, now])?;
    marks.event = (marked > 0).then_some((standing.scope, *event));
    Ok(if marked == 0 { Marked::Ended } else { Marked::New })
}
