//! The admission gate: publishes enter the log in the order of their calls, and no more is in flight than the log is
//! sized for, so that the client never refuses (its refusal would reorder).
//!
//! While the log is idle a publish is sent at once; while a batch is in flight, what is published is gathered and sent
//! as the next. One batch is in flight at a time: with two, a record of the second could be stored after one of its key
//! in the first had failed and before the gate heard of it.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    log::{Outcomes, Position, Producer, Receipt},
};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::sync::{Mutex, MutexGuard};

/// A batch of this size takes no further caller; below the queue of any log we use.
pub(crate) const BATCH_RECORDS: usize = if cfg!(feature = "shuttle") { 2 } else { 4_096 };
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What must not be overtaken: a key within a topic.
type Ordered = (TopicName, Bytes);

/// With more callers than this, a task of the runtime tells them: woken one by one from the log's own thread, workers
/// would wake up and fall asleep again between two of them, and the log would stand still meanwhile.
const TELL_HERE: usize = 8;

#[derive(Debug)]
pub(crate) struct Gate {
    producer: Arc<dyn Producer>,
    state: Mutex<State>,
    teller: mpsc::UnboundedSender<Telling>,
}

#[derive(Debug, Default)]
struct State {
    /// In flight.
    batches: usize,
    /// Records and callers of the last batch.
    gathered: (usize, usize),
    /// What has taken its place and is not sent yet; only the last batch grows.
    queue: VecDeque<Batch>,
    /// One caller at a time hands batches to the log, outside the lock: receipts may come back within `enqueue`.
    pumping: bool,
    /// Keys with failures that their callers have not seen yet, and how many.
    held: HashMap<Ordered, usize>,
}

/// Publishes that are sent together.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<NewRecord>,
    bytes: usize,
    /// In the order of the records: how many are each caller's.
    callers: Vec<(usize, Arc<Mutex<Ticket>>)>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }
}

#[derive(Debug, Default)]
struct Ticket {
    told: Option<Told>,
    waker: Option<Waker>,
    holds: Vec<Ordered>,
    /// Nobody waits any more: a failure has been seen as far as it will be.
    abandoned: bool,
}

/// What a caller is told of its records.
#[derive(Debug)]
pub(crate) enum Told {
    /// Of the only one.
    One(Result<Position, LogError>),
    /// Of each.
    All(Outcomes),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of ours panics while holding these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ordered(record: &NewRecord) -> Option<Ordered> {
    record.key.as_ref().map(|key| (record.topic.clone(), key.clone()))
}

fn held(record: &NewRecord) -> LogError {
    let key = record.key.as_deref().unwrap_or_default().escape_ascii();
    LogError::new(
        LogErrorKind::Held,
        format!("an earlier event of key {key} in {} failed, this one was not sent", record.topic),
    )
}

impl State {
    /// A batch with room for this many records, or for as many as were gathered last time.
    fn open(&self, records: usize) -> Batch {
        let gathers = self.batches > 0;
        let (records, callers) =
            if gathers { (self.gathered.0.max(records), self.gathered.1) } else { (records, 1) };
        Batch { records: Vec::with_capacity(records), bytes: 0, callers: Vec::with_capacity(callers) }
    }

    fn holds(&self, record: &NewRecord) -> bool {
        ordered(record).is_some_and(|key| self.held.contains_key(&key))
    }

    /// Takes the next batch to send, if one may be.
    fn next(&mut self) -> Option<Batch> {
        if self.batches > 0 && !aqueduct_core::planted("gate-without-bound") {
            return None;
        }
        let last_first = aqueduct_core::planted("gate-last-in-first-out");
        let batch = if last_first { self.queue.pop_back()? } else { self.queue.pop_front()? };
        self.batches += 1;
        Some(batch)
    }

    /// Takes the callers out of the queue that have a record of a key that failed: they must not overtake it.
    fn refuse(&mut self, failed: &[Ordered]) -> Vec<(Vec<NewRecord>, Arc<Mutex<Ticket>>)> {
        let mut refused = Vec::new();
        for batch in &mut self.queue {
            let Batch { records, callers, .. } = std::mem::take(batch);
            let mut records = records.into_iter();
            for (count, ticket) in callers {
                let of_caller: Vec<_> = records.by_ref().take(count).collect();
                let overtakes =
                    of_caller.iter().any(|record| ordered(record).is_some_and(|key| failed.contains(&key)));
                if overtakes {
                    refused.push((of_caller, ticket));
                } else {
                    batch.bytes += of_caller.iter().map(NewRecord::size).sum::<usize>();
                    batch.records.extend(of_caller);
                    batch.callers.push((count, ticket));
                }
            }
        }
        self.queue.retain(|batch| !batch.callers.is_empty());
        refused
    }
}

impl Gate {
    pub(crate) fn new(producer: Arc<dyn Producer>) -> Arc<Self> {
        let (teller, mut telling) = mpsc::unbounded_channel();
        // Without a runtime there is no teller: the channel is closed, and callers are told on the spot.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                while let Some(told) = telling.recv().await {
                    drop::<Telling>(told);
                }
            });
        }
        Arc::new(Self { producer, state: Mutex::default(), teller })
    }

    /// Takes a place in the order, now: one place for all the records.
    pub(crate) fn enter(self: &Arc<Self>, records: impl IntoIterator<Item = NewRecord>) -> Admission {
        let ticket = Arc::new(Mutex::new(Ticket::default()));
        let mut state = lock(&self.state);
        if state.held.is_empty() {
            let records = records.into_iter();
            if state.queue.back().is_none_or(Batch::is_full) {
                let batch = state.open(records.size_hint().0);
                state.queue.push_back(batch);
            }
            if let Some(batch) = state.queue.back_mut() {
                let before = batch.records.len();
                batch.records.extend(records);
                batch.bytes += batch.records[before..].iter().map(NewRecord::size).sum::<usize>();
                batch.callers.push((batch.records.len() - before, Arc::clone(&ticket)));
            }
        } else {
            let records: Vec<_> = records.into_iter().collect();
            if records.iter().any(|record| state.holds(record)) {
                // A batch is one place in the order: it waits as a whole for its caller to look.
                drop(state);
                let outcomes = records.iter().map(|record| Err(held(record))).collect();
                lock(&ticket).told = Some(Told::All(outcomes));
                return Admission { gate: Arc::clone(self), ticket };
            }
            let (count, bytes) = (records.len(), records.iter().map(NewRecord::size).sum());
            let callers = vec![(count, Arc::clone(&ticket))];
            state.queue.push_back(Batch { records, bytes, callers });
        }
        if aqueduct_core::planted("gate-sends-after-the-call") {
            drop(state);
            let gate = Arc::clone(self);
            drop(tokio::spawn(async move { gate.pump(lock(&gate.state)) }));
        } else {
            self.pump(state);
        }
        Admission { gate: Arc::clone(self), ticket }
    }

    fn pump<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        if state.pumping {
            return;
        }
        state.pumping = true;
        while let Some(Batch { records, callers, .. }) = state.next() {
            drop(state);
            let keys = records.iter().map(ordered).collect();
            let sent = Sent { gate: Arc::clone(self), callers, keys };
            self.producer.enqueue(records, Box::new(sent));
            state = lock(&self.state);
        }
        state.pumping = false;
    }

    fn release(&self, holds: &[Ordered]) {
        if !holds.is_empty() {
            let mut state = lock(&self.state);
            for key in holds {
                if let Some(count) = state.held.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        state.held.remove(key);
                    }
                }
            }
        }
    }
}

/// A batch in flight.
#[derive(Debug)]
struct Sent {
    gate: Arc<Gate>,
    callers: Vec<(usize, Arc<Mutex<Ticket>>)>,
    keys: Vec<Option<Ordered>>,
}

impl Receipt for Sent {
    fn complete(self: Box<Self>, mut outcomes: Outcomes) {
        outcomes.resize_with(self.keys.len(), || Err(no_outcome()));
        let gate = Arc::clone(&self.gate);
        let failed: Vec<Ordered> = self
            .keys
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_err())
            .filter_map(|(key, _)| key.clone())
            .collect();
        let mut refused = Vec::new();
        if !failed.is_empty() && !aqueduct_core::planted("gate-holds-nothing") {
            let mut state = lock(&gate.state);
            for key in &failed {
                *state.held.entry(key.clone()).or_default() += 1;
            }
            refused = state.refuse(&failed);
        }
        if aqueduct_core::planted("gate-answers-backwards") {
            outcomes.reverse();
        }
        let here = self.callers.len() <= TELL_HERE;
        let telling = Telling(Some((self, outcomes)));
        if here {
            drop(telling);
        } else {
            // Refused where there is no runtime any more; then it is dropped, and tells, here.
            drop(gate.teller.send(telling));
        }
        for (records, ticket) in refused {
            let outcomes = records.iter().map(|record| Err(held(record))).collect();
            finish(&ticket, Told::All(outcomes), Vec::new());
        }
        // After the callers were told: what they publish next goes with what was gathered.
        let mut state = lock(&gate.state);
        state.batches = state.batches.saturating_sub(1);
        gate.pump(state);
    }
}

/// Outcomes on their way to the callers: told when this is dropped, wherever that is, so that nobody waits for ever.
#[derive(Debug)]
struct Telling(Option<(Box<Sent>, Outcomes)>);

impl Drop for Telling {
    fn drop(&mut self) {
        let Some((sent, outcomes)) = self.0.take() else { return };
        let Sent { gate, callers, keys, .. } = *sent;
        let (mut keys, mut outcomes) = (keys.into_iter(), outcomes.into_iter());
        for (count, ticket) in callers {
            let keys = keys.by_ref().take(count);
            if count == 1 {
                let Some(outcome) = outcomes.next() else { return };
                let holds = keys.filter(|_| outcome.is_err()).flatten().collect();
                gate.release(&finish(&ticket, Told::One(outcome), holds));
                continue;
            }
            let outcomes: Outcomes = outcomes.by_ref().take(count).collect();
            let holds = keys
                .zip(&outcomes)
                .filter(|(_, outcome)| outcome.is_err())
                .filter_map(|(key, _)| key)
                .collect();
            gate.release(&finish(&ticket, Told::All(outcomes), holds));
        }
    }
}

/// Tells the caller; where there is none any more, gives back what would have been held for it.
fn finish(ticket: &Mutex<Ticket>, told: Told, holds: Vec<Ordered>) -> Vec<Ordered> {
    let mut ticket = lock(ticket);
    if ticket.abandoned {
        return if aqueduct_core::planted("gate-holds-for-nobody") { Vec::new() } else { holds };
    }
    ticket.told = Some(told);
    ticket.holds = holds;
    let waker = ticket.waker.take();
    drop(ticket);
    if let Some(waker) = waker {
        waker.wake();
    }
    Vec::new()
}

pub(crate) fn no_outcome() -> LogError {
    LogError::new(LogErrorKind::UnknownOutcome, "the log gave a receipt without an outcome")
}

/// Resolves when the log has answered. Dropping it changes nothing: the place is taken, the events go their way.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    ticket: Arc<Mutex<Ticket>>,
}

impl Future for Admission {
    type Output = Told;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Told> {
        let mut ticket = lock(&self.ticket);
        match ticket.told.take() {
            Some(told) => {
                let holds = std::mem::take(&mut ticket.holds);
                drop(ticket);
                self.gate.release(&holds);
                Poll::Ready(told)
            }
            None => {
                if ticket.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    ticket.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // A caller that looks away has seen all that it wants to see.
        let mut ticket = lock(&self.ticket);
        ticket.abandoned = true;
        let holds = std::mem::take(&mut ticket.holds);
        drop(ticket);
        self.gate.release(&holds);
    }
}
