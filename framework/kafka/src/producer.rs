//! The producer whose batches take their place at the call.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    log::{Producer, Receipt},
};

use crate::{
    error::closed,
    sender::{Filling, Ordered, Sender, fail, fail_closed, fault, must_learn, ordered},
    shared::Shared,
};

/// How often it is looked whether a client that failed has answered for all it took.
const LOOK: Duration = Duration::from_millis(5);

/// Appends records.
#[derive(Debug, Clone)]
pub(crate) struct KafkaProducer(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    sender: Arc<Sender>,
    /// What has its place and waits: for a topic that is being learned or made, or for a new client.
    waiting: VecDeque<(Vec<NewRecord>, Box<dyn Receipt>)>,
    /// Whether a thread works on what waits.
    worked: bool,
    /// Keys of records that were refused and whose receipts were not given yet, and how many.
    held: HashMap<Ordered, usize>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl KafkaProducer {
    /// Makes a client. Waits.
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self, LogError> {
        let sender = sender(shared)?;
        let state = State { sender, waiting: VecDeque::new(), worked: false, held: HashMap::new() };
        Ok(Self(Arc::new(Inner { shared: Arc::clone(shared), state: Mutex::new(state) })))
    }
}

fn sender(shared: &Shared) -> Result<Arc<Sender>, LogError> {
    let sender = Arc::new(Sender::new(&shared.options.producing())?);
    let mut senders = shared.senders.lock().unwrap_or_else(PoisonError::into_inner);
    senders.retain(|sender| sender.strong_count() > 0);
    senders.push(Arc::downgrade(&sender));
    Ok(sender)
}

impl Producer for KafkaProducer {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        let inner = &self.0;
        if inner.shared.check().is_err() {
            return receipt.complete(fail_closed(batch.len()));
        }
        let mut state = inner.state();
        let at_once = !state.worked
            && state.sender.fatal().is_none()
            && !batch.iter().any(|record| must_learn(&inner.shared, record));
        if at_once {
            let filling = inner.fill(&mut state, batch, receipt, &HashMap::new());
            drop(state);
            return filling.finish();
        }
        state.waiting.push_back((batch, receipt));
        if !state.worked {
            state.worked = true;
            drop(state);
            inner.start();
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a batch to the client, in order. To be finished outside the lock: its receipt may come within.
    fn fill(
        self: &Arc<Self>,
        state: &mut State,
        batch: Vec<NewRecord>,
        receipt: Box<dyn Receipt>,
        unusable: &HashMap<TopicName, LogError>,
    ) -> Filling {
        let inner = Arc::clone(self);
        let done = move |outcomes, holds: Vec<Ordered>| {
            if !holds.is_empty() {
                inner.free(&holds);
            }
            receipt.complete(outcomes);
        };
        let mut filling = state.sender.begin(batch, Box::new(done));
        let limit = self.shared.options.max_record_bytes;
        for index in 0..filling.records.len() {
            let record = &filling.records[index];
            let key = if state.held.is_empty() { None } else { ordered(record) };
            let refused = if key.is_some_and(|key| state.held.contains_key(&key)) {
                Some(held(record))
            } else if let Some(error) = unusable.get(&record.topic) {
                Some(error.clone())
            } else {
                fault(&self.shared, record, limit)
            };
            let Some(refused) = refused.or_else(|| filling.give(&self.shared, index).err()) else { continue };
            let hold = ordered(&filling.records[index]);
            if let Some(hold) = hold.clone()
                && !aqueduct_core::planted("kafka-holds-nothing")
            {
                *state.held.entry(hold).or_insert(0) += 1;
            }
            filling.refuse(index, refused, hold);
        }
        filling
    }

    fn free(&self, holds: &[Ordered]) {
        let mut state = self.state();
        for hold in holds {
            if let Some(count) = state.held.get_mut(hold) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(hold);
                }
            }
        }
    }

    /// Works on what waits, on a thread: it asks the cluster, and `enqueue` must not wait.
    fn start(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        let spawned = thread::Builder::new().name("kafka-topics".to_owned()).spawn(move || inner.work());
        if let Err(error) = spawned {
            let error = LogError::with_source(LogErrorKind::Unreachable, "cannot start a thread", error);
            let waiting = {
                let mut state = self.state();
                state.worked = false;
                std::mem::take(&mut state.waiting)
            };
            for (batch, receipt) in waiting {
                receipt.complete(fail(batch.len(), &error));
            }
        }
    }

    fn work(self: &Arc<Self>) {
        loop {
            let (unknown, sender) = {
                let mut state = self.state();
                let Some((batch, _)) = state.waiting.front() else {
                    state.worked = false;
                    return;
                };
                let mut unknown: Vec<_> = batch
                    .iter()
                    .filter(|record| must_learn(&self.shared, record))
                    .map(|record| record.topic.clone())
                    .collect();
                unknown.sort_unstable();
                unknown.dedup();
                (unknown, Arc::clone(&state.sender))
            };
            let mut unusable = HashMap::new();
            for topic in unknown {
                let learned = self.shared.check().and_then(|()| self.shared.learn(&topic));
                if let Err(error) = learned {
                    unusable.insert(topic, error);
                }
            }
            let renewed = self.renew(&sender);
            let mut state = self.state();
            let Some((batch, receipt)) = state.waiting.pop_front() else { continue };
            match renewed {
                Ok(sender) => {
                    state.sender = sender;
                    let filling = self.fill(&mut state, batch, receipt, &unusable);
                    drop(state);
                    filling.finish();
                }
                Err(error) => {
                    drop(state);
                    receipt.complete(fail(batch.len(), &error));
                }
            }
        }
    }

    /// The client, or a new one where it has failed for good and has answered for all that it took.
    fn renew(&self, old: &Arc<Sender>) -> Result<Arc<Sender>, LogError> {
        let Some((code, said)) = old.fatal() else { return Ok(Arc::clone(old)) };
        if aqueduct_core::planted("kafka-failed-producer-stays") {
            return Ok(Arc::clone(old));
        }
        tracing::warn!(?code, said, "a producer of Kafka failed for good and is made anew");
        while !old.is_idle() {
            if self.shared.check().is_err() {
                return Err(closed());
            }
            thread::sleep(LOOK);
        }
        sender(&self.shared)
    }
}

fn held(record: &NewRecord) -> LogError {
    let key = record.key.as_deref().unwrap_or_default().escape_ascii();
    LogError::new(
        LogErrorKind::Held,
        format!("an earlier record of key {key} in {} failed, this one was not sent", record.topic),
    )
}
