//! What a partition's task begins: records within the window and lanes in line, as far as there are places; and what it
//! takes in when that has ended.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, time::Duration};

use aqueduct_core::{Record, cloudevents::Incoming};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    delivery::{Assigned, Attempted, InPlace, Shared},
    in_flight::InFlight,
    lanes::{Head, KeyBytes, LaneId, Origin, State},
    partition::{Halt, Partition},
    places::Permit,
    subscription::Target,
    watch::Watch,
    work::{Attempt, Finished, Work},
};

/// How long handlers are polled in one go before others get a turn, and signals are looked at.
pub(crate) const BUDGET: Duration = Duration::from_millis(5);

impl Partition {
    /// Starts what can start now; `true`: there is more, and others had no turn for a while.
    pub(super) fn step(&mut self) -> Result<bool, Halt> {
        let began = self.watch.begin();
        let more = self.start_ready(began)? || self.admit(began)?;
        self.watch.end();
        if self.lanes.has_ready() {
            self.places.end_turn();
        } else {
            self.places.let_go();
        }
        Ok(more)
    }

    /// Starts lanes in line, as far as there are places; `true`: there are more, and this turn, which `began` then, is over.
    pub(super) fn start_ready(&mut self, began: Instant) -> Result<bool, Halt> {
        while self.lanes.has_ready() {
            if self.over(began) {
                return Ok(true);
            }
            let Some(permit) = self.places.take() else {
                self.places.want();
                break;
            };
            match self.lanes.next_ready() {
                Some(id) => self.start(id, permit)?,
                None => self.places.give(permit),
            }
        }
        Ok(false)
    }

    /// A poll follows, unless this turn is over.
    fn over(&mut self, began: Instant) -> bool {
        self.watch.before().is_some_and(|now| now - began > BUDGET)
    }

    /// Begins an attempt at a lane's first record, here where that is possible.
    fn start(&mut self, id: LaneId, permit: Permit) -> Result<(), Halt> {
        let Some(lane) = self.lanes.get_mut(id) else {
            self.places.give(permit);
            return Ok(());
        };
        lane.head.attempts += 1;
        lane.head.state = State::Running;
        let (record, number) = (lane.head.record.clone(), lane.head.attempts);
        let (in_place, route) = self.poll_in_place(&record, number);
        if let InPlace::Over(attempted) = in_place {
            self.places.hand_back(permit);
            return self.on_attempted(id, attempted);
        }
        self.spawn(id, record, in_place, route, permit);
        Ok(())
    }

    /// Polls a record's handler once, here; tells of a poll that took long.
    fn poll_in_place(&mut self, record: &Record, attempt: u32) -> (InPlace, Option<usize>) {
        let waker = self.running.next_waker();
        let (in_place, route) = self.shared.in_place(&self.assigned, record, attempt, &mut self.spare, waker);
        if let Some(took) = self.watch.after()
            && let Some(route) = route
            && !matches!(in_place, InPlace::Elsewhere)
        {
            self.shared.took(route, took);
        }
        (in_place, route)
    }

    /// Lets an attempt go on beside this task.
    fn spawn(
        &mut self,
        lane: LaneId,
        record: Record,
        in_place: InPlace,
        route: Option<usize>,
        permit: Permit,
    ) {
        let Some(head) = self.lanes.get(lane).map(|lane| &lane.head) else { return };
        let (number, place) = (head.attempts, head.place());
        let blocks = route.is_some_and(|route| self.shared.blocks(route));
        let attempt = Attempt { lane, record, number, place, permit };
        let (begun, returned) = match in_place {
            InPlace::Waits(started) if !blocks => {
                self.running.insert(Work::Handler(attempt, started));
                return;
            }
            InPlace::Waits(started) => (Some(started), None),
            InPlace::Returned(started, drafts) => (Some(started), Some(drafts)),
            InPlace::Over(_) | InPlace::Elsewhere => (None, None),
        };
        let (shared, assigned) = (Arc::clone(&self.shared), Arc::clone(&self.assigned));
        let attempt = attempt.run(shared, assigned, begun, returned);
        if !blocks {
            self.running.push(Work::boxed(attempt));
            return;
        }
        let task = AbortOnDropHandle::new(tokio::spawn(attempt));
        self.running.push(Work::boxed(async move {
            task.await.unwrap_or_else(|error| {
                // Handlers are caught one by one, so this is a defect of ours, or the runtime shuts down.
                let attempted = Attempted::Outage(format!("its task ended: {error}"));
                Finished::Attempt { lane, attempted, slot: None, permit: None }
            })
        }));
    }

    /// Takes what the window has room for; `true`: there is more, and others had no turn for a while.
    fn admit(&mut self, began: Instant) -> Result<bool, Halt> {
        // What waits for a place comes first, and what is read meanwhile would only wait too.
        if self.lanes.has_ready() {
            return Ok(false);
        }
        let Some((mut record, position)) = self.pending.take() else { return Ok(false) };
        let window = self.shared.subscription.window;
        self.look_at_stored();
        loop {
            // From the stored settled offset: a crash repeats no more than a window.
            let full = self.ring.len() >= window || self.above_stored() >= window;
            if full && !aqueduct_core::planted("window-without-bound")
                || aqueduct_core::planted("retries-hold-neighbours") && self.lanes.next_due().is_some()
            {
                self.pending = Some((record, position));
                self.report_window();
                return Ok(false);
            }
            if self.over(began) {
                self.pending = Some((record, position));
                return Ok(true);
            }
            self.take_in(&record)?;
            let last = !record.advance();
            if last {
                self.ring.pass(position);
            }
            let more = self.start_ready(began)?;
            if last {
                return Ok(more);
            }
            if self.lanes.has_ready() {
                self.pending = Some((record, position));
                return Ok(more);
            }
        }
    }

    /// Takes a record in. One whose key is idle is handled right here.
    fn take_in(&mut self, record: &Record) -> Result<(), Halt> {
        let sequence = self.ring.push(record.offset());
        if (!self.ended.is_empty() && self.ended.remove(&record.offset())) || self.ignored(record) {
            self.end(sequence);
            return Ok(());
        }
        if let Some(key) = record.key() {
            if let Some(parked) = self.parked.get(key)
                && !aqueduct_core::planted("parked-key-not-consulted")
            {
                return self.park_behind(&parked, sequence, record.clone());
            }
            if let Some(id) = self.lanes.of_key(key)
                && !aqueduct_core::planted("key-in-parallel")
            {
                return self.queue(id, sequence, record.clone());
            }
        }
        let Some(permit) = self.places.take() else {
            let id = self
                .lanes
                .open(record.key().map(KeyBytes::from), Head::new(record.clone(), Origin::Live(sequence)));
            self.lanes.make_ready(id);
            return Ok(());
        };
        let (in_place, route) = self.poll_in_place(record, 1);
        match in_place {
            InPlace::Over(Attempted::Ended) => {
                self.places.hand_back(permit);
                self.end(sequence);
                Ok(())
            }
            InPlace::Over(attempted) => {
                self.places.hand_back(permit);
                let id = self.open_running(record, sequence);
                self.on_attempted(id, attempted)
            }
            waits => {
                let id = self.open_running(record, sequence);
                self.spawn(id, record.clone(), waits, route, permit);
                Ok(())
            }
        }
    }

    /// Opens the lane of a record that is being attempted for the first time.
    fn open_running(&mut self, record: &Record, sequence: u64) -> LaneId {
        let mut head = Head::new(record.clone(), Origin::Live(sequence));
        (head.attempts, head.state) = (1, State::Running);
        self.lanes.open(record.key().map(KeyBytes::from), head)
    }

    /// An ignored event has no effect, so it need not wait for its key.
    fn ignored(&self, record: &Record) -> bool {
        self.shared.routing.ignores
            && Incoming::read(record, None).is_ok_and(|incoming| {
                matches!(self.shared.routing.target(incoming.event_type().0), Some(Target::Ignore))
            })
    }

    /// Takes in what ended.
    pub(super) fn finish_all(&mut self) -> Result<(), Halt> {
        while let Some(finished) = self.finished.pop_front() {
            match finished {
                Finished::Attempt { lane, attempted, slot, permit } => {
                    if let Some(slot) = slot {
                        self.spare.give(slot);
                    }
                    match permit {
                        Some(permit) => self.places.give(permit),
                        None => self.places.lost(),
                    }
                    self.on_attempted(lane, attempted)?;
                }
                Finished::Marked { lane, attempted } => self.on_attempted(lane, attempted)?,
                Finished::Loaded { key, offset, loaded } => self.on_loaded(key, offset, loaded)?,
            }
        }
        Ok(())
    }
}

/// Runs on with what was woken, until something ends. Dropping the future loses nothing.
pub(super) async fn ended(
    running: &mut InFlight<Work>,
    finished: &mut VecDeque<Finished>,
    watch: &mut Watch,
    shared: &Arc<Shared>,
    assigned: &Arc<Assigned>,
) {
    poll_fn(|cx| {
        watch.begin();
        let ended = running.poll(
            cx,
            |work, cx| {
                watch.before();
                let route = work.route();
                let polled = work.poll(shared, assigned, cx);
                if let Some(took) = watch.after()
                    && let Some(route) = route
                {
                    shared.took(route, took);
                }
                polled
            },
            |end| finished.push_back(end),
        );
        watch.end();
        ended
    })
    .await;
}
