//! Producers, with and without transactions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, NewRecord, TopicName,
    log::{GroupToken, Outcomes, Position, Producer, Receipt, Settlement, TransactionalProducer},
};
use bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    consumer::Membership,
    plan::{self, Call, Verdict},
    process::Process,
    state::{Shared, State},
};

/// What a producer has told nobody yet.
#[derive(Debug, Default)]
struct Untold {
    /// Keys with a failure whose receipt has not been given, and how many such failures.
    failed: BTreeMap<(TopicName, Bytes), usize>,
    /// Batches that a paused program has not sent.
    stalled: usize,
}

/// A batch on its way to its receipt.
struct Pending {
    receipt: Box<dyn Receipt>,
    /// Not sent yet: its program is paused.
    stalled: Option<Vec<NewRecord>>,
    outcomes: Outcomes,
    failed: Vec<(TopicName, Bytes)>,
    /// The while before the receipt is given.
    late: Duration,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    process: Arc<Process>,
    untold: Mutex<Untold>,
}

#[derive(Debug)]
pub(crate) struct MemoryProducer {
    inner: Arc<Inner>,
    pending: mpsc::UnboundedSender<Pending>,
}

impl MemoryProducer {
    /// Receipts are given by a task, never inside `enqueue`: the caller may hold a lock that its receipt takes.
    pub(crate) fn open(shared: &Arc<Shared>, process: &Arc<Process>) -> Result<Self, LogError> {
        let runtime = Handle::try_current().map_err(|error| {
            LogError::with_source(LogErrorKind::Configuration, "a producer needs a tokio runtime", error)
        })?;
        let (pending, queue) = mpsc::unbounded_channel();
        let (shared, process, untold) = (Arc::clone(shared), Arc::clone(process), Mutex::default());
        let inner = Arc::new(Inner { shared, process, untold });
        runtime.spawn(give_receipts(queue, Arc::clone(&inner)));
        Ok(Self { inner, pending })
    }
}

/// Gives receipts in order, until the producer was dropped and each was given, or its program was killed.
async fn give_receipts(mut queue: mpsc::UnboundedReceiver<Pending>, inner: Arc<Inner>) {
    while let Some(mut pending) = queue.recv().await {
        plan::wait(pending.late).await;
        inner.shared.receipts_held.until(|held| !held).await;
        if inner.process.turn().await.is_err() {
            return;
        }
        if let Some(batch) = pending.stalled.take() {
            let mut state = inner.shared.lock();
            let mut untold = inner.untold();
            untold.stalled -= 1;
            append(&mut state, &mut untold, batch, &mut pending);
        }
        inner.give(pending);
    }
}

impl Inner {
    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys are free again before the caller hears of the failure, so that what it publishes next is accepted.
    fn give(&self, pending: Pending) {
        let mut untold = self.untold();
        for key in pending.failed {
            if let Some(count) = untold.failed.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    untold.failed.remove(&key);
                }
            }
        }
        drop(untold);
        pending.receipt.complete(pending.outcomes);
    }
}

/// Appends a batch, record by record, and notes what became of each.
fn append(state: &mut State, untold: &mut Untold, batch: Vec<NewRecord>, pending: &mut Pending) {
    for record in batch {
        let key = record.key.clone().map(|key| (record.topic.clone(), key));
        let held = key
            .as_ref()
            .filter(|key| untold.failed.contains_key(key) && !aqueduct_core::planted("memory-holds-nothing"));
        let outcome = if state.closed {
            Err(LogError::new(LogErrorKind::Closed, "the log was closed"))
        } else if let Some((topic, key)) = held {
            let key = key.escape_ascii();
            let message =
                format!("topic {topic}: an earlier record of key {key} failed, this one was not sent");
            Err(LogError::new(LogErrorKind::Held, message))
        } else if let Some(kind) = state.plan.outage(record.topic.as_str()) {
            Err(plan::error(kind, &record.topic))
        } else {
            let fate = state.plan.fate(Call::Append);
            pending.late = pending.late.max(fate.before).max(fate.after);
            match fate.verdict {
                Verdict::Pass => state.topics.append(record, 0),
                Verdict::Fail(kind) => Err(plan::error(kind, &record.topic)),
                Verdict::AnswerLost => {
                    let unknown = plan::error(LogErrorKind::UnknownOutcome, &record.topic);
                    state.topics.append(record, 0).and(Err(unknown))
                }
            }
        };
        if outcome.is_err()
            && let Some(key) = key
        {
            *untold.failed.entry(key.clone()).or_default() += 1;
            pending.failed.push(key);
        }
        pending.outcomes.push(outcome);
    }
}

impl Producer for MemoryProducer {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        if self.inner.process.is_killed() {
            // Nobody is left to be told.
            return;
        }
        let mut state = self.inner.shared.lock();
        let mut untold = self.inner.untold();
        let mut pending = Pending {
            receipt,
            stalled: None,
            outcomes: Vec::with_capacity(batch.len()),
            failed: Vec::new(),
            late: Duration::ZERO,
        };
        if untold.stalled > 0 || self.inner.process.is_paused() {
            untold.stalled += 1;
            pending.stalled = Some(batch);
        } else {
            append(&mut state, &mut untold, batch, &mut pending);
        }
        // Sent under the lock, so that receipts keep the order of the records.
        let sent = self.pending.send(pending);
        if let Err(mpsc::error::SendError(mut pending)) = sent {
            // The runtime that gave receipts has ended; whoever publishes from elsewhere still gets its own.
            if let Some(batch) = pending.stalled.take() {
                untold.stalled -= 1;
                append(&mut state, &mut untold, batch, &mut pending);
            }
            drop((state, untold));
            self.inner.give(pending);
        }
    }
}

#[derive(Debug)]
pub(crate) struct MemoryTransactions {
    shared: Arc<Shared>,
    process: Arc<Process>,
    id: String,
    epoch: u64,
    /// An outcome was not known, or nobody waited for it: this producer is over.
    unknown: bool,
}

impl MemoryTransactions {
    pub(crate) fn new(shared: &Arc<Shared>, process: &Arc<Process>, id: &str, epoch: u64) -> Self {
        let (shared, process) = (Arc::clone(shared), Arc::clone(process));
        Self { shared, process, id: id.to_owned(), epoch, unknown: false }
    }

    async fn commit_in_time(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> Result<Vec<Position>, LogError> {
        self.process.turn().await?;
        self.check_newest(&*self.shared.open()?)?;
        if self.unknown {
            return Err(LogError::new(
                LogErrorKind::UnknownOutcome,
                format!("transactional id {}: an earlier outcome is not known, open a new producer", self.id),
            ));
        }
        let fate = self.shared.fate(Call::Transaction);
        // Who drops the call in the middle does not know its outcome.
        self.unknown = true;
        plan::wait(fate.before).await;
        self.process.turn().await?;
        let outcome = self.commit_now(records, settlements, fate.verdict);
        plan::wait(fate.after).await;
        self.process.turn().await?;
        self.unknown = matches!(&outcome, Err(error) if error.kind() == LogErrorKind::UnknownOutcome);
        outcome
    }

    fn check_newest(&self, state: &State) -> Result<(), LogError> {
        let id = &self.id;
        if state.epochs.get(id) != Some(&self.epoch) && !aqueduct_core::planted("memory-old-producer-goes-on")
        {
            return Err(LogError::new(
                LogErrorKind::Fenced,
                format!("transactional id {id}: a newer producer exists"),
            ));
        }
        Ok(())
    }

    fn commit_now(
        &self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
        verdict: Verdict,
    ) -> Result<Vec<Position>, LogError> {
        let id = &self.id;
        let mut state = self.shared.open()?;
        // Again: a newer producer may have come since it began.
        self.check_newest(&state)?;
        let failed = |kind| plan::error(kind, &format_args!("transactional id {id}"));
        if let Verdict::Fail(kind) = verdict {
            return Err(failed(kind));
        }
        let committed = match settlements {
            None => state.commit(records, None),
            Some((GroupToken(token), settlements)) => {
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
        };
        match verdict {
            // Nothing was written where the log itself refused it, and the caller does not hear that either.
            Verdict::AnswerLost => Err(failed(LogErrorKind::UnknownOutcome)),
            Verdict::Pass | Verdict::Fail(_) => committed,
        }
    }
}

impl TransactionalProducer for MemoryTransactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(self.commit_in_time(records, settlements))
    }
}
