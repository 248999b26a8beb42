//! What follows an attempt: the next record of the lane, another attempt, or the failure policy (RULES R3).

use std::time::Duration;

use aqueduct_core::{NewRecord, Record, Timestamp, handler::Outcome, log::Offset};
use tokio::time::Instant;

use crate::{
    aside::Op,
    delivery::Attempted,
    lanes::{KeyBytes, LaneId, Origin, State},
    parking::index::{Copy, Release},
    partition::{Halt, Partition},
    policy::OnFailure,
    work::{Finished, Work},
};

impl Partition {
    /// An attempt at a lane's first record ended.
    pub(super) fn on_attempted(&mut self, id: LaneId, attempted: Attempted) -> Result<(), Halt> {
        let Some(lane) = self.lanes.get_mut(id) else { return Ok(()) };
        let head = &mut lane.head;
        if !matches!(attempted, Attempted::Outage(_)) && head.outages > 0 {
            head.outages = 0;
            self.held_up = self.held_up.saturating_sub(1);
            if self.held_up == 0 {
                self.shared.board.partition(&self.assigned.partition, |partition| partition.waiting = None);
            }
        }
        let random = || self.shared.bus.environment().random_u64();
        let error = match attempted {
            Attempted::Ended => {
                self.ended(id, Vec::new());
                return Ok(());
            }
            Attempted::Returned(records) => {
                self.ended(id, records);
                return Ok(());
            }
            Attempted::Fenced => return Err(Halt::Fenced),
            Attempted::Undecodable(error) => return self.set_aside(id, error.to_string(), None),
            Attempted::Outage(reason) if aqueduct_core::planted("outage-counts-attempts") => reason.into(),
            Attempted::Outage(reason) => {
                let random = random();
                self.wait(id, reason, random);
                return Ok(());
            }
            Attempted::Failed(error) => error,
        };
        let reason = error.to_string();
        if error.outcome() == Outcome::Terminal && !aqueduct_core::planted("terminal-is-retried") {
            return self.set_aside(id, reason, None);
        }
        let retry = self.shared.subscription.retry;
        if head.failing.is_none()
            && let Some(route) = self.shared.route_of(&head.record)
            && let Some(route) = self.shared.routes.get(route)
        {
            head.failing = Some((route.health.failing(), Instant::now()));
        }
        if !aqueduct_core::planted("attempts-not-counted") {
            head.spent = head.spent.saturating_add(1).min(retry.limit());
        }
        let hold = self.shared.subscription.hold_at_most;
        let works = head.failing.as_ref().is_none_or(|(failing, since)| {
            failing.others_succeed() || since.elapsed() >= hold || aqueduct_core::planted("outage-is-poison")
        });
        let asked = match error.outcome() {
            Outcome::RetryAfter(_) if aqueduct_core::planted("retry-after-ignored") => None,
            Outcome::RetryAfter(delay) => Some(delay),
            Outcome::Retry | Outcome::Terminal => None,
        };
        if head.spent >= retry.limit() {
            if works {
                return self.set_aside(id, reason, None);
            }
            // Nobody else succeeds either: it may be what the handler needs, and not this record.
            let delay = asked.unwrap_or_else(|| retry.longest(random()));
            let place = format!("{:?}", head.record);
            let waiting = format!(
                "{place} has failed {} times, and no other delivery of its handler succeeds: {reason}",
                head.attempts
            );
            self.shared.board.partition(&self.assigned.partition, |partition| {
                partition.waiting = Some(waiting);
            });
            if head.outages == 0 {
                self.held_up += 1;
            }
            head.outages += 1;
            self.back_off(id, delay, reason, true);
            return Ok(());
        }
        let delay = asked.unwrap_or_else(|| retry.delay(head.spent, random()));
        if delay > hold && self.parks(id) {
            let now = self.shared.bus.environment().now();
            let due = now.saturating_add(delay);
            return self.set_aside(id, reason, Some(due));
        }
        self.back_off(id, delay, reason, false);
        self.park_if_crowded(id)
    }

    /// Whether the failure policy parks a lane's record.
    fn parks(&self, id: LaneId) -> bool {
        self.shared.subscription.on_failure == OnFailure::Park
            && self.lanes.get(id).is_some_and(|lane| lane.key.is_some())
    }

    fn back_off(&mut self, id: LaneId, delay: Duration, reason: String, outage: bool) {
        let Some(lane) = self.lanes.get(id) else { return };
        tracing::warn!(
            subscription = self.shared.subscription.name,
            position = ?lane.head.record,
            attempts = lane.head.attempts,
            reason,
            ?delay,
            "an attempt failed"
        );
        self.shared.board.lock().retried += 1;
        self.lanes.back_off(id, Instant::now() + delay, reason, outage);
    }

    /// Something outside does not answer: the record waits, and no attempt is counted.
    fn wait(&mut self, id: LaneId, reason: String, random: u64) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if lane.head.outages == 0 {
            self.held_up += 1;
        }
        lane.head.outages += 1;
        // Not an attempt at the record: the next has the same number.
        lane.head.attempts = lane.head.attempts.saturating_sub(1);
        let delay = self.shared.subscription.retry.delay(lane.head.outages, random);
        tracing::warn!(
            subscription = self.shared.subscription.name,
            position = ?lane.head.record,
            reason,
            ?delay,
            "waiting for an outage to end"
        );
        self.shared
            .board
            .partition(&self.assigned.partition, |partition| partition.waiting = Some(reason.clone()));
        self.lanes.back_off(id, Instant::now() + delay, reason, true);
    }

    /// A delivery has ended: its lane goes on. What its handler returned goes with the settled offset.
    fn ended(&mut self, id: LaneId, returned: Vec<NewRecord>) {
        let Some(lane) = self.lanes.get(id) else { return };
        match lane.head.origin {
            Origin::Live(sequence) => {
                self.returned.keep(sequence, lane.head.record.offset(), returned);
                self.end(sequence);
                self.lanes.advance(id);
            }
            Origin::Released => {
                let (offset, key) = (lane.head.record.offset(), lane.key.clone());
                self.lanes.close(id);
                self.news += 1;
                if let Some(key) = key {
                    self.parked.handled(&key, offset);
                    let mark = KeyBytes::clone(&key);
                    if returned.is_empty() {
                        self.push_aside(Op::End { key: mark, offset, records: returned });
                    } else {
                        self.returned.keep_released(mark, offset, returned);
                    }
                    self.go_on(&key);
                }
            }
        }
    }

    /// A record joins its key's lane.
    pub(super) fn queue(&mut self, id: LaneId, sequence: u64, record: Record) -> Result<(), Halt> {
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.queue.push_back((sequence, record));
        }
        self.park_if_crowded(id)
    }

    /// A key that waits for its next attempt may hold a quarter of the window; beyond it, it is parked until then. In an
    /// outage it stays: parking would move the whole topic.
    fn park_if_crowded(&mut self, id: LaneId) -> Result<(), Halt> {
        let Some(lane) = self.lanes.get(id).filter(|_| !aqueduct_core::planted("crowded-key-not-parked"))
        else {
            return Ok(());
        };
        let State::Backoff { until, reason, outage: false } = &lane.head.state else { return Ok(()) };
        if lane.queue.len() < (self.shared.subscription.window / 4).max(1) || !self.parks(id) {
            return Ok(());
        }
        let works = lane.head.failing.as_ref().is_some_and(|(failing, _)| failing.others_succeed());
        if !works {
            return Ok(());
        }
        let due = self.shared.bus.environment().now().saturating_add(*until - Instant::now());
        let reason = reason.clone();
        self.set_aside(id, reason, Some(due))
    }

    /// Follows the policy for a lane's first record, which will not be handled now.
    fn set_aside(&mut self, id: LaneId, reason: String, due: Option<Timestamp>) -> Result<(), Halt> {
        let Some(lane) = self.lanes.get_mut(id) else { return Ok(()) };
        let (record, attempts) = (lane.head.record.clone(), lane.head.attempts);
        match (self.shared.subscription.on_failure, lane.key.clone()) {
            (OnFailure::Stop, _) => {
                Err(Halt::Stop(format!("{record:?} failed after {attempts} attempts: {reason}")))
            }
            (OnFailure::Park, Some(key)) => self.park(id, &key, reason, due),
            (OnFailure::Park, None) | (OnFailure::DeadLetter, _) => {
                lane.head.state = State::Aside;
                if let (Origin::Live(sequence), true) =
                    (lane.head.origin, aqueduct_core::planted("letter-settled-before-stored"))
                {
                    self.end(sequence);
                }
                self.push_aside(Op::Letter { lane: id, record, reason, attempts });
                Ok(())
            }
        }
    }

    /// Parks a lane: its first record, and those behind it.
    fn park(
        &mut self,
        id: LaneId,
        key: &KeyBytes,
        reason: String,
        due: Option<Timestamp>,
    ) -> Result<(), Halt> {
        let Some(lane) = self.lanes.close(id) else { return Ok(()) };
        let attempts = lane.head.attempts;
        let record = lane.head.record;
        tracing::error!(
            subscription = self.shared.subscription.name,
            position = ?record,
            key = %key.escape_ascii(),
            attempts,
            reason,
            due = due.map(tracing::field::display),
            "parked"
        );
        let first = record.offset();
        let sequence = match lane.head.origin {
            Origin::Live(sequence) => {
                if aqueduct_core::planted("copy-settled-before-stored") {
                    self.end(sequence);
                }
                self.parked.copying(key).map_err(Halt::Stop)?;
                Some(sequence)
            }
            Origin::Released => {
                if let Some(Release::Asked(release)) = self.parked.failed(key) {
                    self.push_aside(Op::Done { release, failure: Some(reason.clone()) });
                }
                None
            }
        };
        let key = KeyBytes::clone(key);
        self.push_aside(Op::Park { sequence, key: KeyBytes::clone(&key), record, reason, attempts, due });
        for (sequence, record) in lane.queue {
            self.copy_behind(&key, sequence, record, first)?;
        }
        Ok(())
    }

    /// A record of a parked key follows it, undecoded.
    pub(super) fn park_behind(&mut self, key: &KeyBytes, sequence: u64, record: Record) -> Result<(), Halt> {
        let first = self.parked.first(key).unwrap_or(record.offset());
        self.copy_behind(key, sequence, record, first)
    }

    fn copy_behind(
        &mut self,
        key: &KeyBytes,
        sequence: u64,
        record: Record,
        first: Offset,
    ) -> Result<(), Halt> {
        self.parked.copying(key).map_err(Halt::Stop)?;
        let reason = format!("its key is parked, since offset {first}");
        let (key, sequence) = (KeyBytes::clone(key), Some(sequence));
        self.push_aside(Op::Park { sequence, key, record, reason, attempts: 0, due: None });
        Ok(())
    }

    /// The log has what was set aside.
    pub(super) fn on_stored(&mut self, op: Op, at: Option<Offset>) {
        match op {
            Op::Letter { lane, record, reason, attempts } => {
                tracing::error!(
                    subscription = self.shared.subscription.name,
                    position = ?record,
                    attempts,
                    reason,
                    "dead letter"
                );
                self.shared.board.lock().dead_letters += 1;
                let Some(head) = self.lanes.get(lane).map(|lane| lane.head.place()) else { return };
                if self.assigned.claim.is_none() {
                    self.ended(lane, Vec::new());
                    return;
                }
                self.mark(lane, head);
            }
            Op::Park { sequence, key, record, due, .. } => {
                // Of a copy it is always known.
                let at = at.unwrap_or_default();
                self.parked.copied(&key, record.offset(), Copy { at, due });
                if let Some(sequence) = sequence {
                    self.shared.board.lock().parked += 1;
                    self.end(sequence);
                }
                self.go_on(&key);
            }
            Op::End { key, .. } => {
                if let Some(Release::Asked(release)) = self.parked.ended(&key) {
                    self.push_aside(Op::Done { release, failure: None });
                }
            }
            Op::Settle { settled, .. } => self.on_settled(settled),
            Op::Done { release, failure } => {
                tracing::info!(
                    subscription = self.shared.subscription.name,
                    partition = %self.assigned.partition,
                    %release,
                    failure,
                    "a release is over"
                );
            }
        }
    }

    /// Marks the position of a dead letter; tried until the database answers.
    fn mark(&mut self, lane: LaneId, place: aqueduct_core::effects::Place) {
        let (shared, assigned) = (std::sync::Arc::clone(&self.shared), std::sync::Arc::clone(&self.assigned));
        let marked = async move {
            let mut failures = 0;
            loop {
                let attempted = shared.mark_ended(&assigned, place).await;
                let Attempted::Outage(reason) = attempted else {
                    return Finished::Marked { lane, attempted };
                };
                failures += 1;
                let delay = shared.subscription.retry.delay(failures, shared.bus.environment().random_u64());
                tracing::warn!(
                    subscription = shared.subscription.name,
                    ?place,
                    reason,
                    ?delay,
                    "waiting for an outage to end"
                );
                shared.board.partition(&assigned.partition, |partition| partition.waiting = Some(reason));
                tokio::time::sleep(delay).await;
            }
        };
        self.running.push(Work::boxed(marked));
    }
}
