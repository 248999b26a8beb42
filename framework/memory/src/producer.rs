//! Producers, with and without transactions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, NewRecord, TopicName,
    log::{GroupToken, Outcomes, Position, Producer, Receipt, Settlement, TransactionalProducer},
};
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use crate::{consumer::Membership, faults, state::Shared};

/// Keys with a failure whose receipt has not been given, and how many such failures.
type Failed = Arc<Mutex<BTreeMap<(TopicName, Bytes), usize>>>;

struct Pending {
    receipt: Box<dyn Receipt>,
    outcomes: Outcomes,
    failed: Vec<(TopicName, Bytes)>,
}

#[derive(Debug)]
pub(crate) struct MemoryProducer {
    shared: Arc<Shared>,
    failed: Failed,
    pending: mpsc::UnboundedSender<Pending>,
}

impl MemoryProducer {
    /// Receipts are given by a task, never inside `enqueue`: the caller may hold a lock that its receipt takes.
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self, LogError> {
        let runtime = Handle::try_current().map_err(|error| {
            LogError::with_source(LogErrorKind::Configuration, "a producer needs a tokio runtime", error)
        })?;
        let (pending, queue) = mpsc::unbounded_channel();
        let failed = Failed::default();
        runtime.spawn(give_receipts(queue, shared.receipts_held.subscribe(), Arc::clone(&failed)));
        Ok(Self { shared: Arc::clone(shared), failed, pending })
    }
}

/// Gives receipts in order, until the producer was dropped and each was given.
async fn give_receipts(
    mut queue: mpsc::UnboundedReceiver<Pending>,
    mut held: watch::Receiver<bool>,
    failed: Failed,
) {
    while let Some(pending) = queue.recv().await {
        // An error says that the log was dropped: nobody is left to release what it holds.
        let _ = held.wait_for(|held| !held).await;
        give(pending, &failed);
    }
}

/// The keys are free again before the caller hears of the failure, so that what it publishes next is accepted.
fn give(pending: Pending, failed: &Failed) {
    let mut marks = failed.lock().unwrap_or_else(PoisonError::into_inner);
    for key in pending.failed {
        if let Some(count) = marks.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                marks.remove(&key);
            }
        }
    }
    drop(marks);
    pending.receipt.complete(pending.outcomes);
}

impl Producer for MemoryProducer {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        let mut state = self.shared.lock();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = Pending { receipt, outcomes: Vec::with_capacity(batch.len()), failed: Vec::new() };
        for record in batch {
            let key = record.key.clone().map(|key| (record.topic.clone(), key));
            let outcome = if state.closed {
                Err(LogError::new(LogErrorKind::Closed, "the log was closed"))
            } else if let Some(key) = key.as_ref().filter(|key| failed.contains_key(key)) {
                let (topic, key) = (&key.0, key.1.escape_ascii());
                let message =
                    format!("topic {topic}: an earlier record of key {key} failed, this one was not sent");
                Err(LogError::new(LogErrorKind::Held, message))
            } else if let Some(kind) = faults::take(&mut state.plan.appends) {
                Err(faults::error(kind, &record.topic))
            } else {
                state.topics.append(record, 0)
            };
            if outcome.is_err()
                && let Some(key) = key
            {
                *failed.entry(key.clone()).or_default() += 1;
                pending.failed.push(key);
            }
            pending.outcomes.push(outcome);
        }
        // Sent under the lock, so that receipts keep the order of the records.
        let sent = self.pending.send(pending);
        drop((state, failed));
        if let Err(mpsc::error::SendError(pending)) = sent {
            // The runtime that gave receipts has ended; whoever publishes from elsewhere still gets its own.
            give(pending, &self.failed);
        }
    }
}

#[derive(Debug)]
pub(crate) struct MemoryTransactions {
    shared: Arc<Shared>,
    id: String,
    epoch: u64,
    /// An outcome was not known: this producer is over.
    unknown: bool,
}

impl MemoryTransactions {
    pub(crate) fn new(shared: &Arc<Shared>, id: &str, epoch: u64) -> Self {
        Self { shared: Arc::clone(shared), id: id.to_owned(), epoch, unknown: false }
    }

    fn commit_now(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> Result<Vec<Position>, LogError> {
        let id = &self.id;
        let mut state = self.shared.open()?;
        if state.epochs.get(id) != Some(&self.epoch) {
            return Err(LogError::new(
                LogErrorKind::Fenced,
                format!("transactional id {id}: a newer producer exists"),
            ));
        }
        if self.unknown {
            return Err(LogError::new(
                LogErrorKind::UnknownOutcome,
                format!("transactional id {id}: an earlier outcome is not known, open a new producer"),
            ));
        }
        if let Some(kind) = faults::take(&mut state.plan.transactions) {
            self.unknown = kind == LogErrorKind::UnknownOutcome;
            return Err(faults::error(kind, &format_args!("transactional id {id}")));
        }
        let Some((GroupToken(token), settlements)) = settlements else { return state.commit(records, None) };
        let membership = token
            .downcast::<Membership>()
            .ok()
            .filter(|membership| Arc::ptr_eq(&membership.shared, &self.shared))
            .ok_or_else(|| {
                let message = format!("transactional id {id}: the group token is not of this log");
                LogError::new(LogErrorKind::Configuration, message)
            })?;
        state.commit(records, Some((&membership.group, membership.member, settlements)))
    }
}

impl TransactionalProducer for MemoryTransactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move { self.commit_now(records, settlements) })
    }
}
