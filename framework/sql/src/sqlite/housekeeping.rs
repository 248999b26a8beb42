//! Deletes marks by event id that are past their retention, in small pieces while the writer is idle.
//!
//! Only repeats at *another* position need these marks: a record at or above the settled offset has a mark by
//! position, and below it has ended. So the clock alone decides here.

use std::time::{Duration, Instant};

use aqueduct_core::environment::Clock;
use rusqlite::{Connection, OptionalExtension, params};

/// Marks looked at in one step: a millisecond or so.
const STEP: i64 = 1_000;
/// A retention of seven days is looked after every seventh part of it: marks live for seven to eight days.
const ROUNDS: u32 = 7;

pub(super) struct Housekeeping {
    retention: Option<Duration>,
    clock: std::sync::Arc<dyn Clock>,
    /// Where the round is, or none between rounds.
    at: Option<(i64, Vec<u8>)>,
    next_round: Instant,
}

impl Housekeeping {
    pub(super) fn new(retention: Option<Duration>, clock: std::sync::Arc<dyn Clock>) -> Self {
        Self { retention, clock, at: None, next_round: Instant::now() }
    }

    /// Whether a round is going on.
    pub(super) fn pending(&self) -> bool {
        self.at.is_some()
    }

    /// A step of the round, or the first step of the next one once that is due.
    pub(super) fn step(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let Some(retention) = self.retention else { return Ok(()) };
        let from = match self.at.take() {
            Some(at) => at,
            None if Instant::now() >= self.next_round => {
                self.next_round = Instant::now() + retention / ROUNDS;
                (i64::MIN, Vec::new())
            }
            None => return Ok(()),
        };
        let before = self.clock.now().saturating_sub(retention).as_micros();
        let upto: Option<(i64, Vec<u8>)> = conn
            .prepare_cached(
                "SELECT scope, event FROM aqueduct_event_mark WHERE (scope, event) > (?1, ?2)
                 ORDER BY scope, event LIMIT 1 OFFSET ?3",
            )?
            .query_row(params![from.0, from.1, STEP], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match &upto {
            Some(upto) => conn
                .prepare_cached(
                    "DELETE FROM aqueduct_event_mark
                     WHERE (scope, event) > (?1, ?2) AND (scope, event) <= (?3, ?4) AND at < ?5",
                )?
                .execute(params![from.0, from.1, upto.0, upto.1, before])?,
            None => conn
                .prepare_cached(
                    "DELETE FROM aqueduct_event_mark WHERE (scope, event) > (?1, ?2) AND at < ?3",
                )?
                .execute(params![from.0, from.1, before])?,
        };
        self.at = upto;
        Ok(())
    }
}
