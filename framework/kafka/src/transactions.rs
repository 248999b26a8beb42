//! Records and settlements as one, by Kafka's transactions.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, NewRecord,
    log::{GroupToken, LETTER_BYTES, Outcomes, Position, Settlement, TransactionalProducer},
};
use rdkafka::{error::KafkaError, producer::Producer};

use crate::{
    consumer::Token,
    error::{configuration, error, kind},
    member::{Due, Member, lock},
    native::{self, TransactionError},
    sender::{Sender, fault, must_learn},
    shared::{PATIENCE, Shared},
};

/// How long the end of a transaction is waited for: longer than the cluster itself keeps one open.
const END: Duration = Duration::from_secs(30);

/// How soon to look whether a rebalance has come to rest.
const BEAT: Duration = Duration::from_millis(20);

/// The transactional producer of one id.
pub(crate) struct KafkaTransactions {
    shared: Arc<Shared>,
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    sender: Arc<Sender>,
    /// One at a time: a commit whose future was dropped still ends first.
    turn: Mutex<()>,
    /// A transaction's end is not known: the next producer of this id finds out.
    unknown: AtomicBool,
}

impl fmt::Debug for KafkaTransactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTransactions").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// How an attempt failed.
enum Failed {
    /// Rolled back for what passes, such as a rebalance of the group: to be judged again.
    Again(LogError),
    /// For good, or for the caller to repeat.
    Other(LogError),
}

impl KafkaTransactions {
    /// Takes over from any older producer of this id. Waits.
    pub(crate) fn open(shared: &Arc<Shared>, id: &str) -> Result<Self, LogError> {
        let wire = shared.checked("transactional id", id)?;
        let sender = Arc::new(Sender::new(&shared.options.transacting(&wire))?);
        lock(&shared.senders).push(Arc::downgrade(&sender));
        let begun = sender.client().init_transactions(END);
        begun.map_err(|failed| of(&format!("cannot open the producer {id}"), failed).1)?;
        let inner =
            Inner { id: id.to_owned(), sender, turn: Mutex::default(), unknown: AtomicBool::new(false) };
        Ok(Self { shared: Arc::clone(shared), inner: Arc::new(inner) })
    }
}

impl TransactionalProducer for KafkaTransactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let settlements = match settlements {
                None => None,
                Some((token, settlements)) => {
                    let member = token.0.downcast_ref::<Token>().map(|token| Arc::clone(&token.0));
                    let member = member.filter(|member| Arc::ptr_eq(&member.shared, &self.shared));
                    let member = member.ok_or_else(|| {
                        let id = &self.inner.id;
                        configuration(format!("producer {id:?} was given the group token of another log"))
                    })?;
                    Some((member, settlements))
                }
            };
            let inner = Arc::clone(&self.inner);
            self.shared.waiting(move |shared| inner.commit(shared, &records, settlements.as_ref())).await
        })
    }
}

impl Inner {
    fn commit(
        &self,
        shared: &Shared,
        records: &[NewRecord],
        settlements: Option<&(Arc<Member>, Vec<Settlement>)>,
    ) -> Result<Vec<Position>, LogError> {
        let _turn = lock(&self.turn);
        if self.unknown.load(Ordering::Acquire) {
            return Err(LogError::new(
                LogErrorKind::UnknownOutcome,
                format!("the end of a transaction of {} is not known; open a new producer", self.id),
            ));
        }
        for record in records {
            if must_learn(shared, record) {
                shared.learn(&record.topic)?;
            }
            if let Some(fault) = fault(shared, record, shared.options.max_record_bytes + LETTER_BYTES) {
                return Err(fault);
            }
        }
        // In one order, so that two that settle the same partitions do not wait for each other.
        let settled: BTreeSet<_> =
            settlements.iter().flat_map(|(_, all)| all).map(|one| &one.partition).collect();
        let member = settlements.map(|(member, _)| &**member);
        let _held: Vec<_> = member
            .into_iter()
            .flat_map(|member| settled.iter().map(|place| member.store(place, None)))
            .collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let due = match settlements {
                None => None,
                Some((member, settlements)) => {
                    let (due, judged) = member.due(settlements, !records.is_empty());
                    if let Some(refused) = judged.into_iter().find_map(Result::err) {
                        return Err(refused);
                    }
                    due
                }
            };
            let moved = || due.iter().flat_map(|due| &due.moved);
            match self.attempt(shared, records, due.as_ref()) {
                Ok(positions) => {
                    if let Some(member) = member {
                        member.stored(moved());
                    }
                    return Ok(positions);
                }
                Err(Failed::Again(_)) if Instant::now() < until && shared.check().is_ok() => {
                    thread::sleep(BEAT)
                }
                Err(Failed::Again(error)) => {
                    let Some(member) = member else { return Err(error) };
                    let owns =
                        || moved().all(|(partition, generation, _)| member.owns(partition, *generation));
                    return Err(member.unheard(error, owns));
                }
                Err(Failed::Other(error)) => return Err(error),
            }
        }
    }

    fn attempt(
        &self,
        shared: &Shared,
        records: &[NewRecord],
        due: Option<&Due>,
    ) -> Result<Vec<Position>, Failed> {
        if records.is_empty() && due.is_none() {
            return Ok(Vec::new());
        }
        let producer = self.sender.client();
        producer.begin_transaction().map_err(|failed| self.fail(failed))?;
        let mut positions = Vec::with_capacity(records.len());
        for outcome in self.produce(shared, records) {
            match outcome {
                Ok(position) => positions.push(position),
                Err(error) => return Err(self.unsent(error)),
            }
        }
        if let Some(due) = due {
            let added = native::send_offsets(producer, &due.offsets, &due.proof, PATIENCE);
            added.map_err(|failed| self.refused(failed))?;
        }
        // All records are acknowledged, so that this call does not wait for them in steps of 100 ms.
        producer.commit_transaction(END).map_err(|failed| self.fail(failed))?;
        Ok(positions)
    }

    /// Sends the records and waits for what becomes of each.
    fn produce(&self, shared: &Shared, records: &[NewRecord]) -> Outcomes {
        if records.is_empty() {
            return Vec::new();
        }
        let (tell, told) = mpsc::sync_channel(1);
        let done = move |outcomes: Outcomes, _| {
            let _ = tell.send(outcomes);
        };
        let mut filling = self.sender.begin(records.to_vec(), Box::new(done));
        for index in 0..records.len() {
            if let Err(error) = filling.give(shared, index) {
                filling.refuse(index, error, None);
            }
        }
        filling.finish();
        told.recv_timeout(END).unwrap_or_else(|_| {
            let text = format!("no answer to the records of a transaction of {}", self.id);
            vec![Err(LogError::new(LogErrorKind::Unreachable, text))]
        })
    }

    /// Of a record that was not stored.
    ///
    /// What the client takes back unsent (`Closed`) failed with its transaction, and that may be the last one's doing: after
    /// a broker refused a batch, librdkafka 2.12.1 counts on from it, and the next is out of sequence. Rolled back, it has a
    /// new epoch.
    fn unsent(&self, error: LogError) -> Failed {
        if error.kind() != LogErrorKind::Closed {
            return Failed::Other(self.roll_back(error));
        }
        let text = format!("a record of a transaction of {} was not sent", self.id);
        let cause = self.roll_back(LogError::with_source(LogErrorKind::Unreachable, text, error));
        // Where it could not be rolled back, or the client failed for good, nothing more goes through this producer.
        let over = self.unknown.load(Ordering::Acquire) || self.sender.fatal().is_some();
        if over { Failed::Other(cause) } else { Failed::Again(cause) }
    }

    /// Rolls back, so that the producer can go on, and says why it had to.
    fn roll_back(&self, cause: LogError) -> LogError {
        if let Some(fatal) = self.fatal() {
            return fatal;
        }
        if aqueduct_core::planted("kafka-transaction-not-rolled-back") {
            return cause;
        }
        match self.sender.client().abort_transaction(PATIENCE) {
            Ok(()) => cause,
            Err(failed) => self.fatal().unwrap_or_else(|| {
                self.unknown.store(true, Ordering::Release);
                of(&format!("a transaction of {} cannot be rolled back", self.id), failed).1
            }),
        }
    }

    /// What ended the producer, if anything did.
    fn fatal(&self) -> Option<LogError> {
        let (code, said) = self.sender.fatal()?;
        if kind(code) == LogErrorKind::Fenced {
            let text = format!("a newer producer of {} was opened: {said}", self.id);
            return Some(LogError::new(LogErrorKind::Fenced, text));
        }
        self.unknown.store(true, Ordering::Release);
        let text = format!("the producer of {} failed for good: {said}", self.id);
        Some(LogError::new(LogErrorKind::UnknownOutcome, text))
    }

    /// Of sending offsets.
    fn refused(&self, failed: TransactionError) -> Failed {
        let TransactionError { code, message } = failed;
        let cause = error(&format!("cannot settle in a transaction of {}", self.id), code, &message);
        let moves = kind(code) == LogErrorKind::StaleGeneration;
        let cause = self.roll_back(cause);
        if moves && cause.kind() == LogErrorKind::StaleGeneration {
            Failed::Again(cause)
        } else {
            Failed::Other(cause)
        }
    }

    /// Of beginning and ending.
    fn fail(&self, failed: KafkaError) -> Failed {
        let (requires_abort, cause) = of(&format!("a transaction of {} failed", self.id), failed);
        if let Some(fatal) = self.fatal() {
            return Failed::Other(fatal);
        }
        if requires_abort {
            let moves = cause.kind() == LogErrorKind::StaleGeneration;
            let cause = self.roll_back(cause);
            return if moves { Failed::Again(cause) } else { Failed::Other(cause) };
        }
        self.unknown.store(true, Ordering::Release);
        Failed::Other(LogError::with_source(
            LogErrorKind::UnknownOutcome,
            format!("the end of a transaction of {} is not known", self.id),
            cause,
        ))
    }
}

/// An error of a transaction's call, and whether it asks to be rolled back.
fn of(tried: &str, failed: KafkaError) -> (bool, LogError) {
    match failed {
        KafkaError::Transaction(failed) => {
            (failed.txn_requires_abort(), error(tried, failed.code(), &failed.string()))
        }
        failed => (false, crate::error::client(tried, failed)),
    }
}
