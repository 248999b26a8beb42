//! Taking partitions up: where each starts, and what its task is made of.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use aqueduct_core::{
    LogError, LogErrorKind,
    effects::{Effects, Scope, Taken},
    log::{Assignment, Consumer, Offset, PartitionId, PartitionReader, Start},
};
use futures_util::FutureExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    aside::{Aside, Writer},
    delivery::{Assigned, Shared},
    growth::{Growing, LOOK},
    noted::Noted,
    parking::{
        control::{Asked, Open},
        rebuild::rebuild,
    },
    partition::{Beginning, Closed, Partition, Wish},
    progress::Progress,
    running::{LAST_SETTLE, Owned, Running, SETTLE_INTERVAL},
    status::PartitionStatus,
    sync::{AtomicBool, AtomicI64, Ordering},
};

impl<S: Clone + Send + Sync + 'static> Running<S> {
    pub(super) async fn assign(
        &mut self,
        assignments: Vec<Assignment>,
        stop: &CancellationToken,
    ) -> Result<(), LogError> {
        let mut starts = Vec::new();
        let mut taken = Vec::new();
        let mut anew = false;
        let mut topics = HashMap::new();
        for assignment in assignments {
            let Some(found) = self.find(&assignment, &mut topics, stop).await? else { return Ok(()) };
            let in_log = assignment.settled.as_ref().map(|settled| settled.offset);
            let mut settled = in_log;
            let (mut claim, mut ended) = (None, Vec::new());
            if let Some(effects) = self.shared.effects.clone() {
                // None: the subscription ends before the database answers.
                let Some(taken) = self.take(&*effects, &assignment, stop).await else { return Ok(()) };
                // The database decides: what the log has only serves lag tools.
                if !aqueduct_core::planted("log-decides-where-reading-starts") {
                    settled = taken.settled;
                }
                claim = Some(taken.claim);
                ended = taken.ended;
            }
            let otherwise = match found.older {
                // Nobody could have handled what came before it was noticed.
                Some(_) => Start::Earliest,
                None => self.shared.subscription.start,
            };
            // Where its task settles, nobody else keeps that it was begun.
            let begins = self.shared.subscription.exactly_once && found.older.is_none();
            anew |= settled.is_none() && (otherwise != Start::Earliest || begins);
            anew &= !aqueduct_core::planted("start-not-kept");
            let start = settled.map_or(otherwise, Start::Offset);
            // What log and database both have is not stored once more.
            let kept = settled.filter(|_| settled == in_log);
            taken.push((assignment.clone(), claim, ended, kept, found));
            starts.push((assignment, start));
        }
        let readers = match self.consumer.assign(starts.clone()).await {
            Ok(readers) => readers,
            Err(error) if error.kind() == LogErrorKind::StaleGeneration => {
                // Some were lost again before they were taken up: the signal that says so is on its way. The others are
                // ours.
                let (mut readers, mut kept) = (Vec::new(), Vec::new());
                for (start, taken) in starts.into_iter().zip(taken) {
                    match self.consumer.assign(vec![start]).await {
                        Ok(reader) => {
                            readers.extend(reader);
                            kept.push(taken);
                        }
                        Err(error) if error.kind() == LogErrorKind::StaleGeneration => {
                            tracing::warn!(subscription = self.name(), %error, "an assignment was over before it began");
                        }
                        Err(error) => return Err(error),
                    }
                }
                taken = kept;
                readers
            }
            Err(error) => return Err(error),
        };
        let mut tasks = Vec::new();
        for ((assignment, claim, ended, kept, found), reader) in taken.into_iter().zip(readers) {
            let start = reader.position();
            let progress = Arc::new(Progress {
                settled: AtomicI64::new(start),
                read: AtomicI64::new(start),
                given: AtomicBool::new(false),
                hungry: AtomicBool::new(false),
                stored: AtomicI64::new(start),
                ended: AtomicI64::new(start),
                grows: AtomicBool::new(found.older.is_some()),
                moved: Notify::new(),
                hurry: Arc::clone(&self.hurry),
            });
            let (wish, wished) = watch::channel(Wish::Run);
            let (releases, released) = mpsc::unbounded_channel();
            let (id, generation) = (assignment.partition, assignment.generation);
            let status = PartitionStatus { settled: start, ..PartitionStatus::default() };
            self.shared.board.lock().partitions.insert(id.clone(), status);
            let assigned = Arc::new(Assigned {
                partition: id.clone(),
                topic_id: assignment.topic_id,
                generation,
                claim,
            });
            let task = Task {
                shared: Arc::clone(&self.shared),
                consumer: Arc::clone(&self.consumer),
                assigned,
                noted: found.noted,
                refused: found.refused,
                growing: found.older.map(|older| Growing::new(id.clone(), older)),
                start,
                ended: ended.into_iter().collect(),
                progress: Arc::clone(&progress),
                open: Arc::clone(&self.releases),
                reader,
                wished,
                released,
            };
            tasks.push((id.clone(), generation, task));
            let stored = kept.filter(|kept| *kept == start).unwrap_or(-1);
            let owned = Owned {
                generation,
                claim,
                noted: found.noted,
                wish,
                progress,
                releases,
                stored,
                revoking: false,
                closed: false,
                settles: false,
                fenced: None,
            };
            if let Some(older) = self.partitions.insert(id, owned) {
                older.wish(Wish::Lost);
            }
        }
        // A start that is not the beginning is kept before the first delivery: else a kill would choose a later one,
        // and what lies between would never be handled.
        while anew && !stop.is_cancelled() {
            self.settle_now(LAST_SETTLE).await;
            anew = tasks.iter().any(|(id, ..)| {
                self.partitions.get(id).is_some_and(|owned| {
                    let grows = owned.progress.grows.load(Ordering::Acquire);
                    owned.stored < 0 && owned.fenced.is_none() && !grows
                })
            });
            if anew {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(SETTLE_INTERVAL) => {}
                }
            }
        }
        for (id, generation, task) in tasks {
            if let Some(owned) = self.partitions.get_mut(&id) {
                owned.settles = self.shared.subscription.settles_itself();
            }
            self.tasks.spawn(async move {
                let closed = AssertUnwindSafe(task.run()).catch_unwind().await;
                // Handlers are caught one by one, so this is a defect of ours, or of an error's `Display`.
                (id, generation, closed.unwrap_or_else(|_| Closed::Stopped("its task panicked".to_owned())))
            });
        }
        Ok(())
    }

    /// Takes a partition in the database, waiting for one that does not answer.
    async fn take(
        &self,
        effects: &dyn Effects,
        assignment: &Assignment,
        stop: &CancellationToken,
    ) -> Option<Taken> {
        let scope = Scope {
            subscription: self.name().to_owned(),
            topic_id: assignment.topic_id,
            partition: assignment.partition.clone(),
        };
        let mut failures = 0;
        loop {
            let error = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                taken = effects.take(&scope) => match taken {
                    Ok(taken) => return Some(taken),
                    Err(error) => error,
                },
            };
            failures += 1;
            if !self.pause(&scope.partition, &error.to_string(), failures, stop).await {
                return None;
            }
        }
    }

    /// Waits before a partition is asked for again. `false`: the subscription ends.
    pub(super) async fn pause(
        &self,
        partition: &PartitionId,
        error: &str,
        failures: u32,
        stop: &CancellationToken,
    ) -> bool {
        let random = self.shared.bus.environment().random_u64();
        let delay = self.shared.subscription.retry.delay(failures, random);
        tracing::warn!(subscription = self.name(), %partition, error, ?delay, "cannot take the partition yet");
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }
}

/// What a partition's task is made of.
struct Task<S> {
    shared: Arc<Shared<S>>,
    consumer: Arc<dyn Consumer>,
    assigned: Arc<Assigned>,
    noted: Noted,
    /// Why it cannot be taken up.
    refused: Option<String>,
    growing: Option<Growing>,
    start: Offset,
    ended: HashSet<Offset>,
    progress: Arc<Progress>,
    open: Arc<Mutex<Open>>,
    reader: Box<dyn PartitionReader>,
    wished: watch::Receiver<Wish>,
    released: mpsc::UnboundedReceiver<Asked>,
}

impl<S: Send + Sync + 'static> Task<S> {
    /// Waits for the older partitions of one that was added. How it closed meanwhile, if it did.
    async fn grow(&mut self, mut growing: Growing) -> Option<Closed> {
        let partition = growing.partition.clone();
        let name = self.shared.subscription.name.clone();
        let mut looked = false;
        loop {
            let waits = tokio::select! {
                biased;
                changed = self.wished.changed() => {
                    let wished = if changed.is_ok() { *self.wished.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => continue,
                        Wish::Drain(_) => return Some(Closed::Drained { unfinished: 0 }),
                        Wish::Lost => return Some(Closed::Fenced),
                    }
                }
                waits = async {
                    if looked {
                        tokio::time::sleep(LOOK).await;
                    }
                    growing.waits(&self.shared).await
                } => waits,
            };
            looked = true;
            let waiting = match waits {
                Ok(None) => break,
                Ok(Some(waiting)) => waiting,
                Err(error) if error.kind() == LogErrorKind::Unreachable => error.to_string(),
                Err(error) => {
                    return Some(Closed::Stopped(format!("it was added and cannot begin: {error}")));
                }
            };
            self.shared.board.partition(&partition, |status| {
                if status.waiting.as_ref() != Some(&waiting) {
                    tracing::info!(subscription = name, %partition, waiting, "an added partition waits");
                    status.waiting = Some(waiting);
                }
            });
        }
        self.shared.board.partition(&partition, |status| status.waiting = None);
        self.progress.grows.store(false, Ordering::Release);
        None
    }

    /// Reads what is parked, then runs the partition: nothing is delivered before.
    async fn run(mut self) -> Closed {
        let (group, log) = (self.shared.subscription.name.clone(), Arc::clone(self.shared.bus.log()));
        let environment = self.shared.bus.environment().clone();
        if let Some(refused) = self.refused {
            return Closed::Stopped(refused);
        }
        if let Some(growing) = self.growing.take()
            && let Some(closed) = self.grow(growing).await
        {
            return closed;
        }
        let mut failures = 0;
        let rebuilt = loop {
            let Assigned { partition, topic_id, .. } = &*self.assigned;
            let error = tokio::select! {
                biased;
                changed = self.wished.changed() => {
                    let wished = if changed.is_ok() { *self.wished.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => continue,
                        Wish::Drain(_) => return Closed::Drained { unfinished: 0 },
                        Wish::Lost => return Closed::Fenced,
                    }
                }
                rebuilt = async {
                    if failures > 0 {
                        let random = environment.random_u64();
                        tokio::time::sleep(self.shared.subscription.retry.delay(failures, random)).await;
                    }
                    rebuild(&*log, &group, partition, *topic_id, self.start).await
                } => match rebuilt {
                    Ok(rebuilt) => break rebuilt,
                    Err(error) => error,
                },
            };
            if error.kind() != LogErrorKind::Unreachable {
                return Closed::Stopped(format!("its parked records cannot be read: {error}"));
            }
            failures += 1;
            let waiting = format!("its parked records cannot be read now: {error}");
            tracing::warn!(subscription = group, %partition, reason = waiting, "waiting for an outage to end");
            self.shared.board.partition(partition, |status| status.waiting = Some(waiting));
        };
        if failures > 0 {
            self.shared.board.partition(&self.assigned.partition, |status| status.waiting = None);
        }
        self.ended.extend(rebuilt.ended);
        let releases = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.of(&self.assigned.partition).cloned().collect()
        };
        let aside = Aside::new(Writer {
            group,
            log,
            consumer: self.consumer,
            environment,
            retry: self.shared.subscription.retry,
            board: self.shared.board.clone(),
            partition: self.assigned.partition.clone(),
            topic_id: self.assigned.topic_id,
            noted: self.noted,
            generation: self.assigned.generation,
            progress: Arc::clone(&self.progress),
            open: tokio::sync::Mutex::default(),
        });
        let beginning = Beginning { ended: self.ended, parked: rebuilt.parked, releases };
        let partition =
            Partition::new(self.shared, self.assigned, self.start, self.progress, aside, beginning);
        partition.run(self.reader, self.wished, self.released).await
    }
}
