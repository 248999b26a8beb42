//! Deletes marks by event id that are past their retention, in small pieces.
//!
//! A mark is needed until the event's other positions have been read, and the clock alone does not say so: it runs on
//! while a service is down or stands still. So a retention is counted per subscription, in the spans of time (a
//! seventh of the retention each) in which it marked something. Time in which it marked nothing ages no mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_core::environment::Clock;
use rusqlite::{Connection, OptionalExtension, params};

/// Marks looked at in one step of an idle writer: a millisecond or so.
pub(super) const STEP: usize = 1_000;
/// While commits never pause: marks looked at per turn of them. New marks are one per turn at most, so a round ends.
const PER_TURN: usize = 16;
/// While commits never pause: a step comes once it has this many marks to look at,
const BUSY_STEP: usize = 4 * STEP;
/// or after this many commits.
const BUSY_COMMITS: usize = 16;
/// A retention is this many spans, and is looked after once in each of them.
const SPANS: usize = 7;

pub(super) struct Housekeeping {
    /// The retention in microseconds, or none to keep marks for good.
    retention: Option<i64>,
    clock: Arc<dyn Clock>,
    round: Round,
    next_round: Instant,
    commits: usize,
    turns: usize,
}

enum Round {
    None,
    /// Finds each scope's newest spans in which it marked something.
    Survey {
        from: (i64, Vec<u8>),
        spans: BTreeMap<i64, BTreeSet<i64>>,
    },
    /// Deletes, in the last of these scopes after `from`, what is dated before its bound.
    Purge {
        scopes: Vec<(i64, i64)>,
        from: Vec<u8>,
    },
}

impl Housekeeping {
    pub(super) fn new(retention: Option<Duration>, clock: Arc<dyn Clock>) -> Self {
        Self {
            retention: retention.map(|retention| i64::try_from(retention.as_micros()).unwrap_or(i64::MAX)),
            clock,
            round: Round::None,
            next_round: Instant::now(),
            commits: 0,
            turns: 0,
        }
    }

    /// Whether a round is going on.
    pub(super) fn pending(&self) -> bool {
        !matches!(self.round, Round::None)
    }

    /// A step now and then while commits never pause.
    pub(super) fn committed(&mut self, conn: &Connection, turns: usize) -> rusqlite::Result<()> {
        self.commits += 1;
        self.turns += turns;
        let marks = self.turns.saturating_mul(PER_TURN);
        if marks < BUSY_STEP && self.commits < BUSY_COMMITS {
            return Ok(());
        }
        (self.commits, self.turns) = (0, 0);
        self.step(conn, marks.clamp(PER_TURN, BUSY_STEP))
    }

    /// A step of the round, or the first step of the next one once that is due.
    pub(super) fn step(&mut self, conn: &Connection, marks: usize) -> rusqlite::Result<()> {
        let Some(retention) = self.retention else { return Ok(()) };
        // A step that fails ends its round; the next one begins anew.
        self.round = match std::mem::replace(&mut self.round, Round::None) {
            Round::None if Instant::now() < self.next_round => Round::None,
            Round::None => {
                let span = Duration::from_micros(u64::try_from(span(retention)).unwrap_or(u64::MAX));
                self.next_round = Instant::now() + span;
                survey(conn, retention, (i64::MIN, Vec::new()), BTreeMap::new(), marks)?
            }
            Round::Survey { from, spans } => survey(conn, retention, from, spans, marks)?,
            Round::Purge { scopes, from } => {
                let oldest = self.clock.now().as_micros().saturating_sub(retention);
                purge(conn, oldest, scopes, &from, marks)?
            }
        };
        Ok(())
    }
}

fn span(retention: i64) -> i64 {
    (retention / i64::try_from(SPANS).unwrap_or(i64::MAX)).max(1)
}

fn survey(
    conn: &Connection,
    retention: i64,
    (scope, event): (i64, Vec<u8>),
    mut spans: BTreeMap<i64, BTreeSet<i64>>,
    marks: usize,
) -> rusqlite::Result<Round> {
    let span = span(retention);
    let mut select = conn.prepare_cached(
        "SELECT scope, event, at FROM aqueduct_event_mark WHERE (scope, event) > (?1, ?2)
         ORDER BY scope, event LIMIT ?3",
    )?;
    let limit = i64::try_from(marks).unwrap_or(i64::MAX);
    let mut rows = select.query(params![scope, event, limit])?;
    let (mut seen, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let (scope, at): (i64, i64) = (row.get(0)?, row.get(2)?);
        let newest = spans.entry(scope).or_default();
        newest.insert(at.div_euclid(span));
        // The newest span may have just begun, so the retention's are the ones before it.
        if newest.len() > SPANS + 1 {
            newest.pop_first();
        }
        seen += 1;
        if seen == marks {
            last = Some((scope, row.get(1)?));
        }
    }
    if let Some(from) = last {
        return Ok(Round::Survey { from, spans });
    }
    let scopes: Vec<(i64, i64)> = spans
        .into_iter()
        .filter(|(_, newest)| newest.len() > SPANS)
        .filter_map(|(scope, newest)| Some((scope, newest.first()?.saturating_mul(span))))
        .collect();
    Ok(if scopes.is_empty() { Round::None } else { Round::Purge { scopes, from: Vec::new() } })
}

fn purge(
    conn: &Connection,
    oldest: i64,
    mut scopes: Vec<(i64, i64)>,
    from: &[u8],
    marks: usize,
) -> rusqlite::Result<Round> {
    let Some((scope, bound)) = scopes.last().copied() else { return Ok(Round::None) };
    // Marks that a clock dated in the future count as spans too; nothing younger than the retention may go.
    let bound = bound.min(oldest);
    let upto: Option<Vec<u8>> = conn
        .prepare_cached(
            "SELECT event FROM aqueduct_event_mark WHERE scope = ?1 AND event > ?2 ORDER BY event LIMIT 1 OFFSET ?3",
        )?
        .query_row(params![scope, from, i64::try_from(marks).unwrap_or(i64::MAX)], |row| row.get(0))
        .optional()?;
    conn.prepare_cached(
        "DELETE FROM aqueduct_event_mark
         WHERE scope = ?1 AND event > ?2 AND (?3 IS NULL OR event <= ?3) AND at < ?4",
    )?
    .execute(params![scope, from, upto, bound])?;
    let from = match upto {
        Some(upto) => upto,
        None => {
            scopes.pop();
            Vec::new()
        }
    };
    Ok(if scopes.is_empty() { Round::None } else { Round::Purge { scopes, from } })
}
