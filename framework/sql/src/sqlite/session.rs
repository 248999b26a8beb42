//! The write connection while it is lent for one turn.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization},
};
use tokio::sync::oneshot;

use aqueduct_core::effects::{Claim, EventMark, Place};

use super::{
    gate::{Gate, Group, Outcome, Turn},
    position::{self, Marked, Marks},
};

const SAVEPOINT: &str = "SAVEPOINT aqueduct_turn";
const RELEASE: &str = "RELEASE aqueduct_turn";
const ROLLBACK: &str = "ROLLBACK TO aqueduct_turn";

/// Whether transaction control on the connection is ours. A handler may not end the group's transaction, leave its
/// savepoint, or go on in autocommit after SQLite rolled back by itself.
#[derive(Clone, Default)]
pub(super) struct Ours(Arc<AtomicBool>);

impl Ours {
    pub(super) fn install(&self, conn: &Connection) -> rusqlite::Result<()> {
        let ours = self.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| match context.action {
            AuthAction::Transaction { .. } | AuthAction::Attach { .. } | AuthAction::Detach { .. }
                if !ours.get() =>
            {
                Authorization::Deny
            }
            // Names of savepoints are compared without case.
            AuthAction::Savepoint { savepoint_name, .. }
                if !ours.get() && savepoint_name.eq_ignore_ascii_case("aqueduct_turn") =>
            {
                Authorization::Deny
            }
            _ => Authorization::Allow,
        }))?;
        let ours = self.clone();
        conn.commit_hook(Some(move || !ours.get()))
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, ours: bool) {
        self.0.store(ours, Ordering::Relaxed);
    }

    fn run(&self, conn: &Connection, sql: &str) -> rusqlite::Result<()> {
        self.set(true);
        let result = conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        self.set(false);
        result.map(drop)
    }
}

/// The connection inside a group's transaction.
pub(super) struct Lent {
    pub(super) conn: Connection,
    pub(super) ours: Ours,
    pub(super) group: Group,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("group", &self.group).finish_non_exhaustive()
    }
}

/// One turn. Dropped without [`Session::finish`] it rolls back its savepoint; either way it passes the connection on.
#[derive(Debug)]
pub(super) struct Session {
    lent: Option<Box<Lent>>,
    gate: Arc<Gate>,
    turn: Turn,
    in_savepoint: bool,
    /// Made before the savepoint.
    marks: Marks,
}

impl Session {
    pub(super) fn new(lent: Box<Lent>, gate: Arc<Gate>, turn: Turn) -> Self {
        Self { lent: Some(lent), gate, turn, in_savepoint: false, marks: Marks::default() }
    }

    pub(super) fn into_lent(mut self) -> Option<Box<Lent>> {
        self.lent.take()
    }

    /// Counts the turn as one of its group.
    pub(super) fn begin(&mut self) {
        if let Some(lent) = &mut self.lent {
            lent.group.turns += 1;
        }
    }

    /// Begins what is rolled back unless the turn finishes.
    pub(super) fn start(&mut self) -> rusqlite::Result<()> {
        if let Some(lent) = &mut self.lent {
            lent.ours.run(&lent.conn, SAVEPOINT)?;
            self.in_savepoint = true;
        }
        Ok(())
    }

    /// Marks a delivery, before `start`; taken back unless the turn finishes.
    pub(super) fn mark(
        &mut self,
        claim: Claim,
        place: Place,
        event: Option<&EventMark>,
        now: i64,
    ) -> rusqlite::Result<Marked> {
        let Some(lent) = &mut self.lent else { return Ok(Marked::Fenced) };
        let standings = &mut lent.group.standings;
        let standing = match standings.iter().find(|standing| standing.row == claim.row) {
            Some(standing) => *standing,
            None => match position::standing(&lent.conn, claim.row)? {
                Some(standing) => {
                    standings.push(standing);
                    standing
                }
                None => return Ok(Marked::Fenced),
            },
        };
        position::mark(&lent.conn, &standing, claim, place, event, now, &mut self.marks)
    }

    /// The connection; there from `new` until `finish` or drop.
    #[allow(
        clippy::expect_used,
        reason = "only `finish`, `into_lent` and `drop` take it, and they consume self"
    )]
    pub(super) fn conn(&self) -> &Connection {
        &self.lent.as_ref().expect("a session has its connection until it ends").conn
    }

    /// Joins the group's commit with what was written, and with staged events counted by type. The outcome comes
    /// with the commit.
    pub(super) fn finish(
        mut self,
        published: HashMap<String, i64>,
    ) -> rusqlite::Result<oneshot::Receiver<Outcome>> {
        let (told, outcome) = oneshot::channel();
        if let Some(lent) = &mut self.lent {
            if self.in_savepoint {
                // Failing, `drop` cleans up.
                lent.ours.run(&lent.conn, RELEASE)?;
                self.in_savepoint = false;
            }
            self.marks = Marks::default();
            lent.group.outcomes.push(told);
            for (event_type, count) in published {
                *lent.group.published.entry(event_type).or_default() += count;
            }
        }
        Ok(outcome)
    }
}

impl Lent {
    /// Undoes a turn that did not finish.
    fn undo(&self, in_savepoint: bool, marks: Marks) -> rusqlite::Result<()> {
        let stays = aqueduct_core::planted("dropped-turn-stays");
        if in_savepoint {
            let rollback = if stays { "DELETE FROM aqueduct_format WHERE 0" } else { ROLLBACK };
            self.ours.run(&self.conn, rollback)?;
            self.ours.run(&self.conn, RELEASE)?;
        }
        if stays { Ok(()) } else { marks.undo(&self.conn) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut lent) = self.lent.take() else { return };
        let undone = if lent.conn.is_autocommit() {
            Err("SQLite rolled it back".to_owned())
        } else {
            let marks = std::mem::take(&mut self.marks);
            lent.undo(self.in_savepoint, marks).map_err(|error| error.to_string())
        };
        if let Err(reason) = undone {
            // Such as by INSERT OR ROLLBACK, or on a full disk: the neighbours' work is gone with it, and they must
            // hear it.
            lent.group.broken =
                Some(format!("the transaction ended inside {:?}: {reason}", self.turn).into());
        }
        if !matches!(self.turn, Turn::Delivery { .. }) {
            lent.group.standings.clear();
        }
        self.gate.pass(lent);
    }
}
