//! A member of a group, as the port has it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind,
    log::{Assignment, Consumer, GroupToken, PartitionId, PartitionReader, Settlement, Signal, Start},
};
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::closed,
    member::{Member, Told},
    reader::KafkaReader,
    shared::Shared,
};

/// How long leaving is waited for: where no broker answers, the client ends by itself later.
const LEAVE: Duration = Duration::from_secs(2);

/// How long to wait before asking again for what could not be asked.
const AGAIN: Duration = Duration::from_millis(200);

/// Proof of membership.
#[derive(Debug, Clone)]
pub(crate) struct Token(pub(crate) Arc<Member>);

/// A member of a group.
pub(crate) struct KafkaConsumer {
    member: Arc<Member>,
    signals: Mutex<Signals>,
}

struct Signals {
    hears: mpsc::UnboundedReceiver<Told>,
    /// Taken off and not given yet: a wait that is dropped loses none.
    next: Option<Told>,
    /// The question where the group stands, under way: a wait that is dropped does not begin it anew.
    asking: Option<Asking>,
}

struct Asking {
    about: Vec<(PartitionId, i64)>,
    answer: AbortOnDropHandle<Result<Vec<Assignment>, LogError>>,
}

impl fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConsumer").field("group", &self.member.group).finish_non_exhaustive()
    }
}

impl KafkaConsumer {
    pub(crate) fn new(member: Arc<Member>, hears: mpsc::UnboundedReceiver<Told>) -> Self {
        Self { member, signals: Mutex::new(Signals { hears, next: None, asking: None }) }
    }

    async fn next_signal(&self) -> Result<Signal, LogError> {
        let mut signals = self.signals.lock().await;
        loop {
            self.member.check()?;
            if signals.next.is_none() {
                tokio::select! {
                    biased;
                    () = self.member.shared.closed.cancelled() => return Err(closed()),
                    () = self.member.leaving.cancelled() => continue,
                    told = signals.hears.recv() => signals.next = told,
                }
            }
            if let Signals { hears, next: Some(Told::Assigned(given)), asking } = &mut *signals {
                let asked = asking.get_or_insert_with(|| {
                    let answer = tokio::spawn(ask(Arc::clone(&self.member), given.clone()));
                    Asking { about: given.clone(), answer: AbortOnDropHandle::new(answer) }
                });
                let later = !aqueduct_core::planted("kafka-signals-wait-in-line");
                let answer = tokio::select! {
                    biased;
                    answer = &mut asked.answer => answer,
                    // The group may wait for the answer to it, and answer nothing meanwhile.
                    Some(told) = hears.recv(), if later => match self.overtake(given, told)? {
                        Some(signal) => return Ok(signal),
                        None => continue,
                    },
                };
                // It has answered, whatever it was.
                let about = asking.take().map(|asked| asked.about).unwrap_or_default();
                // Ends early only with the runtime.
                let mut answer = answer.unwrap_or_else(|_| Err(closed()))?;
                answer.retain(|one| {
                    given.iter().any(|(id, generation)| (id, *generation) == (&one.partition, one.generation))
                });
                // What came meanwhile is asked about next.
                given.retain(|one| !about.contains(one));
                if given.is_empty() {
                    signals.next = None;
                }
                if !answer.is_empty() {
                    return Ok(Signal::Assigned(answer));
                }
                continue;
            }
            match signals.next.take() {
                Some(Told::Revoking(partitions)) => return Ok(Signal::Revoking(partitions)),
                Some(Told::Lost(partitions)) => return Ok(Signal::Lost(partitions)),
                Some(Told::Failed(error)) => return Err(error),
                Some(Told::Assigned(_)) | None => {}
            }
        }
    }

    /// What comes while it is asked where the group stands in partitions that were given and not told yet: of those nobody is
    /// told.
    fn overtake(&self, given: &mut Vec<(PartitionId, i64)>, told: Told) -> Result<Option<Signal>, LogError> {
        let mut take_out = |partitions: Vec<PartitionId>| {
            let untold = |partition: &PartitionId| given.iter().any(|(given, _)| given == partition);
            let (untold, known): (Vec<_>, Vec<_>) = partitions.into_iter().partition(untold);
            given.retain(|(partition, _)| !untold.contains(partition));
            (untold, known)
        };
        Ok(match told {
            Told::Assigned(more) => {
                given.extend(more);
                None
            }
            Told::Revoking(partitions) => {
                let (untold, known) = take_out(partitions);
                self.member.give_back(&untold);
                (!known.is_empty()).then_some(Signal::Revoking(known))
            }
            Told::Lost(partitions) => {
                let (_, known) = take_out(partitions);
                (!known.is_empty()).then_some(Signal::Lost(known))
            }
            Told::Failed(error) => return Err(error),
        })
    }
}

/// What of it is still this member's, with where the group stands. An outage is waited out: nothing is read before that is
/// known.
async fn ask(member: Arc<Member>, given: Vec<(PartitionId, i64)>) -> Result<Vec<Assignment>, LogError> {
    loop {
        let (asking, about) = (Arc::clone(&member), given.clone());
        let asked = member.shared.waiting(move |shared| assignments(shared, &asking, about)).await;
        match asked {
            Err(error) if matches!(error.kind(), LogErrorKind::Unreachable | LogErrorKind::Held) => {
                tracing::warn!(group = member.group, %error, "cannot ask where the group stands");
                tokio::select! {
                    biased;
                    () = member.shared.closed.cancelled() => return Err(closed()),
                    () = member.leaving.cancelled() => member.check()?,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
            asked => return asked,
        }
    }
}

/// Asks where the group stands in partitions that were given, and whether they still are. Waits.
fn assignments(
    shared: &Arc<Shared>,
    member: &Member,
    mut given: Vec<(PartitionId, i64)>,
) -> Result<Vec<Assignment>, LogError> {
    given.retain(|(partition, generation)| member.owns(partition, *generation));
    if given.is_empty() {
        return Ok(Vec::new());
    }
    // What is stored once more as a proof is what is there: nobody of this process stores beside it.
    let _held = member.hold(given.iter().map(|(partition, _)| partition))?;
    given.retain(|(partition, generation)| member.owns(partition, *generation));
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<_> =
        given.iter().map(|(partition, _)| (partition.topic.clone(), partition.partition)).collect();
    let settled = member.settled(&asked)?;
    member.prove(&given, &settled)?;
    let mut ids = HashMap::new();
    let mut assignments = Vec::with_capacity(given.len());
    for ((partition, generation), settled) in given.into_iter().zip(settled) {
        if !member.owns(&partition, generation) {
            continue;
        }
        let topic_id = match ids.get(&partition.topic) {
            Some(id) => *id,
            None => *ids.entry(partition.topic.clone()).or_insert(shared.require(&partition.topic)?.id),
        };
        member.stands_at(&partition, settled.as_ref().map(|settled| settled.offset));
        assignments.push(Assignment { partition, topic_id, generation, settled });
    }
    Ok(assignments)
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.member.leaving.cancel();
    }
}

impl Consumer for KafkaConsumer {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(self.next_signal())
    }

    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        let member = Arc::clone(&self.member);
        Box::pin(self.member.shared.waiting(move |shared| {
            member.check()?;
            let given = assignments.into_iter().map(|one| (one.partition, one.generation)).collect();
            self::assignments(shared, &member, given)
        }))
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        let member = Arc::clone(&self.member);
        Box::pin(self.member.shared.waiting(move |shared| {
            member.check()?;
            let mut seen = Vec::with_capacity(starts.len());
            for (assignment, _) in &starts {
                seen.push(member.seen(&assignment.partition, assignment.generation)?);
            }
            let mut readers: Vec<Box<dyn PartitionReader>> = Vec::with_capacity(starts.len());
            for ((assignment, start), seen) in starts.into_iter().zip(seen) {
                readers.push(Box::new(KafkaReader::open(shared, &assignment.partition, start, seen)?));
            }
            Ok(readers)
        }))
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        self.member.give_back(partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        let (member, count) = (Arc::clone(&self.member), settlements.len());
        Box::pin(async move {
            let shared = Arc::clone(&member.shared);
            let settled = shared.waiting(move |_| Ok(member.settle(&settlements))).await;
            settled.unwrap_or_else(|error| vec![Err(error); count])
        })
    }

    fn group_token(&self) -> GroupToken {
        GroupToken(Arc::new(Token(Arc::clone(&self.member))))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(leave(&self.member))
    }
}

/// Leaves the group, and waits for it as long as that makes sense: once, whoever asks, and whether or not that wait was cut
/// short.
pub(crate) async fn leave(member: &Member) -> Result<(), LogError> {
    member.leaving.cancel();
    if member.waited.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    if tokio::time::timeout(LEAVE, member.left.cancelled()).await.is_err() {
        tracing::warn!(group = member.group, "the group could not be left in time; its session will end it");
    }
    Ok(())
}
