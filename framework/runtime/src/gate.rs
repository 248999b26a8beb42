//! The admission gate: publishes enter the log in the order of their calls, and no more is in flight than the log
//! is sized for, so that the client never refuses (its refusal would reorder).

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    log::{Outcomes, Producer},
};
use bytes::Bytes;

/// In flight at most, in records and bytes; below the queue of any log we use.
const MAX_RECORDS: usize = 50_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What must not be overtaken: a key within a topic.
type Ordered = (TopicName, Bytes);

#[derive(Debug)]
pub(crate) struct Gate {
    producer: Arc<dyn Producer>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: usize,
    bytes: usize,
    queue: VecDeque<Entry>,
    /// One caller at a time hands entries to the log, outside the lock: receipts may come back within `enqueue`.
    pumping: bool,
    /// Keys with failures that their callers have not seen yet, and how many.
    held: HashMap<Ordered, usize>,
}

#[derive(Debug)]
struct Entry {
    records: Vec<NewRecord>,
    ticket: Arc<Mutex<Ticket>>,
}

#[derive(Debug, Default)]
struct Ticket {
    outcomes: Option<Outcomes>,
    waker: Option<Waker>,
    holds: Vec<Ordered>,
    /// Nobody waits any more: a failure has been seen as far as it will be.
    abandoned: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of ours panics while holding these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ordered(record: &NewRecord) -> Option<Ordered> {
    record.key.as_ref().map(|key| (record.topic.clone(), key.clone()))
}

fn size(records: &[NewRecord]) -> usize {
    records.iter().map(NewRecord::size).sum()
}

fn held(record: &NewRecord) -> LogError {
    let key = record.key.as_deref().unwrap_or_default().escape_ascii();
    LogError::new(
        LogErrorKind::Held,
        format!("an earlier event of key {key} in {} failed, this one was not sent", record.topic),
    )
}

impl Gate {
    pub(crate) fn new(producer: Arc<dyn Producer>) -> Arc<Self> {
        Arc::new(Self { producer, state: Mutex::default() })
    }

    /// Takes a place in the order, now.
    pub(crate) fn enter(self: &Arc<Self>, records: Vec<NewRecord>) -> Admission {
        let ticket = Arc::new(Mutex::new(Ticket::default()));
        let mut state = lock(&self.state);
        let overtakes = !state.held.is_empty()
            && records.iter().any(|record| ordered(record).is_some_and(|key| state.held.contains_key(&key)));
        if overtakes {
            // A batch is one place in the order: it waits as a whole for its caller to look.
            lock(&ticket).outcomes = Some(records.iter().map(|record| Err(held(record))).collect());
            drop(state);
        } else {
            state.queue.push_back(Entry { records, ticket: Arc::clone(&ticket) });
            drop(state);
            self.pump();
        }
        Admission { gate: Arc::clone(self), ticket }
    }

    fn pump(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.pumping {
            return;
        }
        state.pumping = true;
        while let Some(entry) = state.queue.front() {
            let (records, bytes) = (entry.records.len(), size(&entry.records));
            let fits = state.records + records <= MAX_RECORDS && state.bytes + bytes <= MAX_BYTES;
            if !fits && state.records > 0 {
                break;
            }
            let Some(Entry { records: batch, ticket }) = state.queue.pop_front() else { break };
            state.records += records;
            state.bytes += bytes;
            drop(state);
            let keys: Vec<_> = batch.iter().map(ordered).collect();
            let gate = Arc::clone(self);
            self.producer
                .enqueue(batch, Box::new(move |outcomes| gate.complete(&ticket, &keys, outcomes, bytes)));
            state = lock(&self.state);
        }
        state.pumping = false;
    }

    fn complete(
        self: &Arc<Self>,
        ticket: &Mutex<Ticket>,
        keys: &[Option<Ordered>],
        outcomes: Outcomes,
        bytes: usize,
    ) {
        let mut state = lock(&self.state);
        state.records = state.records.saturating_sub(keys.len());
        state.bytes = state.bytes.saturating_sub(bytes);
        let failed: Vec<Ordered> = keys
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_err())
            .filter_map(|(key, _)| key.clone())
            .collect();
        let mut refused = Vec::new();
        if !failed.is_empty() {
            for key in &failed {
                *state.held.entry(key.clone()).or_default() += 1;
            }
            let waiting = std::mem::take(&mut state.queue);
            for entry in waiting {
                if entry.records.iter().any(|record| ordered(record).is_some_and(|key| failed.contains(&key)))
                {
                    refused.push(entry);
                } else {
                    state.queue.push_back(entry);
                }
            }
        }
        drop(state);
        let unseen = finish(ticket, outcomes, failed);
        self.release(&unseen);
        for entry in refused {
            finish(&entry.ticket, entry.records.iter().map(|record| Err(held(record))).collect(), Vec::new());
        }
        self.pump();
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

/// Tells the caller; where there is none any more, gives back what would have been held for it.
fn finish(ticket: &Mutex<Ticket>, outcomes: Outcomes, holds: Vec<Ordered>) -> Vec<Ordered> {
    let mut ticket = lock(ticket);
    if ticket.abandoned {
        return holds;
    }
    ticket.outcomes = Some(outcomes);
    ticket.holds = holds;
    let waker = ticket.waker.take();
    drop(ticket);
    if let Some(waker) = waker {
        waker.wake();
    }
    Vec::new()
}

/// Resolves when the log has answered. Dropping it changes nothing: the place is taken, the events go their way.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    ticket: Arc<Mutex<Ticket>>,
}

impl Future for Admission {
    type Output = Outcomes;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcomes> {
        let mut ticket = lock(&self.ticket);
        match ticket.outcomes.take() {
            Some(outcomes) => {
                let holds = std::mem::take(&mut ticket.holds);
                drop(ticket);
                self.gate.release(&holds);
                Poll::Ready(outcomes)
            }
            None => {
                ticket.waker = Some(cx.waker().clone());
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
