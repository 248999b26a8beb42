//! What a simulated database holds. Every change here is one committed transaction.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aqueduct_core::{
    NewRecord, Timestamp,
    effects::{Claim, EventMark, Place, Scope, Taken},
    log::Offset,
};
use tokio::time::Instant;

#[derive(Debug)]
struct Position {
    subscription: String,
    generation: i64,
    settled: Option<Offset>,
    marks: BTreeSet<Offset>,
    /// The group's generation under which each claim was taken.
    groups: BTreeMap<i64, i64>,
}

/// A committed row: its value, and the transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) value: Vec<u8>,
    pub(crate) written: u64,
}

/// A staged event.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) id: i64,
    pub(crate) record: NewRecord,
    pub(crate) at: Timestamp,
}

/// Who moves the outbox, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) term: u64,
    pub(crate) until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Row numbers by scope; a position's number is its place in `positions`.
    scopes: BTreeMap<(String, u128, i32), usize>,
    positions: Vec<Position>,
    events: BTreeSet<(String, EventMark)>,
    pub(crate) rows: BTreeMap<String, Row>,
    pub(crate) outbox: VecDeque<Staged>,
    last_staged: i64,
    /// The last staged event that the log has.
    pub(crate) cursor: i64,
    pub(crate) lease: Option<Lease>,
    /// Transactions so far.
    committed: u64,
}

/// What marking a delivery finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    New,
    Ended,
    Fenced,
}

/// What a delivery's transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Rows that were read, and the transaction that had written each; none where there was no row.
    pub(crate) reads: BTreeMap<String, Option<u64>>,
    /// Rows that are written, or removed.
    pub(crate) writes: BTreeMap<String, Option<Vec<u8>>>,
}

/// A delivery that is to be marked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivered {
    pub(crate) claim: Claim,
    pub(crate) place: Place,
    pub(crate) event: Option<EventMark>,
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Its claim is void, or another transaction ended the delivery.
    Claim,
    /// A row that it read was written since.
    Row,
}

impl Tables {
    fn position(&self, claim: Claim) -> Option<&Position> {
        self.positions.get(usize::try_from(claim.row).ok()?)
    }

    fn current(&mut self, claim: Claim) -> Option<&mut Position> {
        let position = self.positions.get_mut(usize::try_from(claim.row).ok()?)?;
        (position.generation == claim.generation).then_some(position)
    }

    /// Raises the generation; `group` is the group's generation of the assignment.
    pub(crate) fn take(&mut self, scope: &Scope, group: i64) -> Taken {
        let key = (scope.subscription.clone(), scope.topic_id.as_u128(), scope.partition.partition);
        let index = *self.scopes.entry(key).or_insert_with(|| {
            self.positions.push(Position {
                subscription: scope.subscription.clone(),
                generation: 0,
                settled: None,
                marks: BTreeSet::new(),
                groups: BTreeMap::new(),
            });
            self.positions.len() - 1
        });
        let position = &mut self.positions[index];
        position.generation += 1;
        position.groups.insert(position.generation, group);
        let claim = Claim { row: i64::try_from(index).unwrap_or(i64::MAX), generation: position.generation };
        let ended = position.marks.range(position.settled.unwrap_or(Offset::MIN)..).copied().collect();
        Taken { claim, settled: position.settled, ended }
    }

    /// The group's generation of a claim.
    pub(crate) fn group_generation(&self, claim: Claim) -> i64 {
        let groups = self.position(claim).map(|position| &position.groups);
        groups.and_then(|groups| groups.get(&claim.generation)).copied().unwrap_or(0)
    }

    /// What a mark would find; changes nothing.
    pub(crate) fn look(&self, Delivered { claim, place, event }: Delivered) -> Marked {
        let Some(position) = self.position(claim).filter(|found| found.generation == claim.generation) else {
            return Marked::Fenced;
        };
        let offset = place.offset();
        let passed = position.settled.is_some_and(|settled| settled > offset);
        let live = matches!(place, Place::Live(_));
        let known = event.is_some_and(|event| self.knows(&position.subscription, event));
        if (passed && live) || (!passed && position.marks.contains(&offset)) || known {
            return Marked::Ended;
        }
        Marked::New
    }

    fn knows(&self, subscription: &str, event: EventMark) -> bool {
        self.events.contains(&(subscription.to_owned(), event))
    }

    /// Marks a delivery by position alone: its event has ended elsewhere.
    pub(crate) fn mark_position(&mut self, claim: Claim, place: Place) {
        if let Some(position) = self.current(claim)
            && position.settled.is_none_or(|settled| settled <= place.offset())
        {
            position.marks.insert(place.offset());
        }
    }

    /// Whether a delivery has ended, whoever asks.
    pub(crate) fn ended(&self, Delivered { claim, place, event }: Delivered) -> bool {
        let Some(position) = self.position(claim) else { return false };
        let offset = place.offset();
        let marked = position.marks.contains(&offset);
        match place {
            Place::Live(_) => marked || position.settled.is_some_and(|settled| settled > offset),
            Place::Released(_) => {
                marked || event.is_some_and(|event| self.knows(&position.subscription, event))
            }
        }
    }

    /// Raises the settled offset, never lowers it. `false`: the claim is void.
    pub(crate) fn raise(&mut self, claim: Claim, settled: Offset) -> bool {
        let Some(position) = self.current(claim) else { return false };
        let raised = position.settled.map_or(settled, |before| before.max(settled));
        position.settled = Some(raised);
        position.marks.retain(|offset| *offset >= raised);
        true
    }

    /// Marks, rows and staged events as one, or nothing.
    pub(crate) fn commit(
        &mut self,
        delivered: Delivered,
        buffer: Buffer,
        staged: Vec<NewRecord>,
        now: Timestamp,
    ) -> Result<(), Conflict> {
        if self.look(delivered) != Marked::New {
            return Err(Conflict::Claim);
        }
        for (key, read) in &buffer.reads {
            if self.rows.get(key).map(|row| row.written) != *read {
                return Err(Conflict::Row);
            }
        }
        self.committed += 1;
        self.mark_position(delivered.claim, delivered.place);
        if let Some(event) = delivered.event
            && let Some(position) = self.position(delivered.claim)
        {
            let mark = (position.subscription.clone(), event);
            self.events.insert(mark);
        }
        for (key, value) in buffer.writes {
            match value {
                Some(value) => {
                    self.rows.insert(key, Row { value, written: self.committed });
                }
                None => {
                    self.rows.remove(&key);
                }
            }
        }
        for record in staged {
            self.last_staged += 1;
            self.outbox.push_back(Staged { id: self.last_staged, record, at: now });
        }
        Ok(())
    }
}
