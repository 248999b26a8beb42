//! What a subscription keeps of a partition that it has.

use std::{sync::Arc, time::Duration};

use aqueduct_core::{
    effects::Claim,
    log::{Assignment, Offset},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{growth::Found, parking::control::Asked, partition::Wish, progress::Progress, sync::Ordering};

/// How often a partition is taken again at most: two services that take each other's in one database would never end.
const TAKEN_AGAIN: Duration = Duration::from_secs(10);

/// A partition in this process.
pub(crate) struct Owned {
    /// As it was given; where the group stood then.
    pub(super) assignment: Assignment,
    /// What was found of it before it was begun.
    pub(super) found: Option<Found>,
    pub(super) claim: Option<Claim>,
    pub(super) wish: watch::Sender<Wish>,
    pub(crate) progress: Arc<Progress>,
    pub(super) releases: mpsc::UnboundedSender<Asked>,
    /// The settled offset that the log and the database have.
    pub(super) stored: Offset,
    /// Whether the group waits for it.
    pub(super) revoking: bool,
    /// Whether its task has ended.
    pub(super) closed: bool,
    /// It is being taken up: no task of its own runs.
    pub(super) taking: bool,
    /// It was added and waits for the older ones: nothing of it is settled.
    pub(super) grows: bool,
    /// Its task settles, in transactions with what handlers returned, and nobody else.
    pub(super) settles: bool,
    /// The log has no such offset: what reads it says why.
    pub(super) refused: bool,
    /// Another owner has it: nothing of it is settled any more.
    pub(super) fenced: bool,
    /// The group has said that it is not this member's.
    pub(super) gone: bool,
    /// When it was taken again, if it was.
    pub(super) again: Option<Instant>,
}

impl Owned {
    /// One of which nothing runs yet.
    pub(super) fn new(assignment: Assignment, progress: Arc<Progress>) -> Self {
        let ((wish, _), (releases, _)) = (watch::channel(Wish::Run), mpsc::unbounded_channel());
        Self {
            assignment,
            found: None,
            claim: None,
            wish,
            progress,
            releases,
            stored: -1,
            revoking: false,
            closed: false,
            taking: false,
            grows: false,
            settles: false,
            refused: false,
            fenced: false,
            gone: false,
            again: None,
        }
    }

    pub(crate) fn generation(&self) -> i64 {
        self.assignment.generation
    }

    /// Whether the database says that another one has it, and the group has not said so.
    pub(super) fn is_contradicted(&self) -> bool {
        let lately = self.again.is_some_and(|again| again.elapsed() < TAKEN_AGAIN);
        let asked = self.taking || self.gone || self.revoking || lately;
        self.fenced && self.closed && !asked
    }

    /// Whether its task has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the rounds store its settled offset.
    pub(super) fn settled_by_rounds(&self) -> bool {
        let begins = self.found.as_ref().is_some_and(|found| found.refused.is_none());
        begins && !self.fenced && !self.settles && !self.grows && !self.taking
    }

    /// Whether its task has ended and its settled offset is not stored.
    pub(super) fn is_owing(&self) -> bool {
        let settled = self.progress.settled.load(Ordering::Acquire);
        self.closed && self.settled_by_rounds() && settled != self.stored && !self.refused
    }

    /// Tells the task, unless it is lost already.
    pub(super) fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|wished| {
            let changes = *wished != Wish::Lost;
            if changes {
                *wished = wish;
            }
            changes
        });
    }
}
