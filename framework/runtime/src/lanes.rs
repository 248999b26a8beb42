//! The lanes of one partition: a key's records in order, the first of which is attempted.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use aqueduct_core::{Record, effects::Place, log::Offset};
use hashbrown::HashMap;
use slab::Slab;
use tokio::time::Instant;

use crate::health::Failing;

/// A key's bytes.
pub(crate) type KeyBytes = Arc<[u8]>;

/// The record at the front of a lane, and how it fares.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) record: Record,
    pub(crate) origin: Origin,
    pub(crate) state: State,
    /// Attempts begun, over all reasons to repeat it.
    pub(crate) attempts: u32,
    /// Attempts that the policy counts.
    pub(crate) spent: u32,
    /// Attempts in a row that an outage ended.
    pub(crate) outages: u32,
    /// Since when the handler has failed it.
    pub(crate) failing: Option<(Failing, Instant)>,
}

/// Where a delivery comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Read in its turn, under this delivery sequence.
    Live(u64),
    /// Released after it was parked.
    Released,
}

/// What a lane waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// For a place to run.
    Ready,
    /// For its attempt to end.
    Running,
    /// For the next attempt, because of the last one's reason.
    Backoff { until: Instant, reason: String, outage: bool },
    /// For its dead letter to be stored, or marked.
    Aside,
}

impl Head {
    pub(crate) fn new(record: Record, origin: Origin) -> Self {
        let (state, attempts, spent, outages, failing) = (State::Ready, 0, 0, 0, None);
        Self { record, origin, state, attempts, spent, outages, failing }
    }

    pub(crate) fn place(&self) -> Place {
        place(&self.record, self.origin)
    }
}

pub(crate) fn place(record: &Record, origin: Origin) -> Place {
    match origin {
        Origin::Live(_) => Place::Live(record.offset()),
        Origin::Released => Place::Released(record.offset()),
    }
}

/// A key's records. A record without a key has a lane of its own.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: Option<KeyBytes>,
    pub(crate) head: Head,
    pub(crate) queue: VecDeque<(u64, Record)>,
}

/// Names a lane while it exists.
pub(crate) type LaneId = usize;

#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Slab<Lane>,
    by_key: HashMap<KeyBytes, LaneId>,
    ready: VecDeque<LaneId>,
    backoffs: BTreeSet<(Instant, LaneId)>,
}

impl Lanes {
    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().map(|(_, lane)| lane)
    }

    /// The lane of live records of a key.
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<LaneId> {
        // Without lanes there is no need to hash.
        if self.by_key.is_empty() { None } else { self.by_key.get(key).copied() }
    }

    /// Opens a lane. That of a released record is not the key's: live records of the key are parked meanwhile.
    pub(crate) fn open(&mut self, key: Option<KeyBytes>, head: Head) -> LaneId {
        let live = matches!(head.origin, Origin::Live(_));
        let named = key.clone().filter(|_| live);
        let id = self.lanes.insert(Lane { key, head, queue: VecDeque::new() });
        if let Some(key) = named {
            self.by_key.insert(key, id);
        }
        id
    }

    /// Puts a lane in line for a place to run.
    pub(crate) fn make_ready(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.head.state = State::Ready;
            self.ready.push_back(id);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn next_ready(&mut self) -> Option<LaneId> {
        self.ready.pop_front()
    }

    /// Lets a lane wait until its next attempt.
    pub(crate) fn back_off(&mut self, id: LaneId, until: Instant, reason: String, outage: bool) {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.head.state = State::Backoff { until, reason, outage };
            self.backoffs.insert((until, id));
        }
    }

    /// When the first lane is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.backoffs.first().map(|(until, _)| *until)
    }

    /// Puts the lanes that are due in line.
    pub(crate) fn wake_due(&mut self, now: Instant) {
        while let Some((_, id)) = self.backoffs.first().copied().filter(|(until, _)| *until <= now) {
            self.backoffs.pop_first();
            self.make_ready(id);
        }
    }

    /// Goes on to the next record of a lane, or closes it.
    pub(crate) fn advance(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let last_first = aqueduct_core::planted("lane-last-in-first-out");
        match if last_first { lane.queue.pop_back() } else { lane.queue.pop_front() } {
            Some((sequence, record)) => {
                lane.head = Head::new(record, Origin::Live(sequence));
                self.ready.push_back(id);
            }
            None => {
                self.close(id);
            }
        }
    }

    /// Takes a lane away that is neither in line nor running.
    pub(crate) fn close(&mut self, id: LaneId) -> Option<Lane> {
        let lane = self.lanes.try_remove(id)?;
        if let State::Backoff { until, .. } = lane.head.state {
            self.backoffs.remove(&(until, id));
        }
        if let (Some(key), Origin::Live(_)) = (&lane.key, lane.head.origin) {
            self.by_key.remove(key);
        }
        Some(lane)
    }

    /// Begins nothing more: what runs, or waits for its dead letter, stays.
    pub(crate) fn drain(&mut self) -> usize {
        self.ready.clear();
        self.backoffs.clear();
        let mut given_up = 0;
        self.lanes.retain(|_, lane| {
            lane.queue.clear();
            let stays = matches!(lane.head.state, State::Running | State::Aside);
            given_up += usize::from(!stays && lane.head.attempts > 0);
            stays
        });
        self.by_key.clear();
        given_up
    }

    /// The lane whose first record is this delivery.
    pub(crate) fn with_head(&self, sequence: u64) -> Option<&Lane> {
        self.iter().find(|lane| lane.head.origin == Origin::Live(sequence))
    }

    /// The key with the most records queued, and how many.
    pub(crate) fn longest(&self) -> Option<(LaneId, usize)> {
        self.lanes.iter().map(|(id, lane)| (id, lane.queue.len())).max_by_key(|(id, queued)| (*queued, *id))
    }
}

/// Which record holds the settled offset, for people.
pub(crate) fn holder(lane: &Lane, offset: Offset) -> String {
    let key = match &lane.key {
        Some(key) => format!("key {}", key.escape_ascii()),
        None => "a record without a key".to_owned(),
    };
    let attempts = lane.head.attempts;
    match &lane.head.state {
        State::Ready => format!("{key} at offset {offset} waits for a place to run"),
        State::Running => format!("{key} at offset {offset} is being handled, attempt {attempts}"),
        State::Backoff { reason, .. } => {
            format!("{key} at offset {offset} has failed {attempts} times and is tried again: {reason}")
        }
        State::Aside => format!("{key} at offset {offset} waits for its dead letter to be stored"),
    }
}
