//! Partitions that were taken up: what their tasks are made of, and what comes before the first delivery.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use aqueduct_core::{
    LogErrorKind,
    log::{Consumer, Offset, PartitionId, PartitionReader},
};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};

use crate::{
    aside::{Aside, Writer, fence},
    claims::Taking,
    delivery::{Assigned, Shared},
    noted::Noted,
    owned::Owned,
    parking::{
        control::{Asked, Open},
        rebuild::{Rebuilt, rebuild},
    },
    partition::{Beginning, Closed, Partition, Wish},
    policy::OnFailure,
    progress::Progress,
    running::Running,
    status::PartitionStatus,
    sync::Ordering,
};

impl Running {
    /// Begins a partition that was taken up.
    pub(super) fn begin(&mut self, taking: Taking, reader: Box<dyn PartitionReader>) {
        let task = self.own(taking, reader);
        let (id, generation) = (task.assigned.partition.clone(), task.assigned.generation);
        self.spawn(id, generation, task.run());
    }

    /// What the subscription keeps of a partition, and what its task is made of.
    fn own(&mut self, taking: Taking, reader: Box<dyn PartitionReader>) -> Task {
        let Taking { assignment, found, claim, ended, kept, begun, .. } = taking;
        let start = reader.position();
        let begun = begun || aqueduct_core::planted("start-not-kept");
        let progress = Arc::new(Progress::new(start, begun, &self.hurry));
        let (wish, wished) = watch::channel(Wish::Run);
        let (releases, released) = mpsc::unbounded_channel();
        let id = assignment.partition.clone();
        let status = PartitionStatus { settled: start, ..PartitionStatus::default() };
        self.shared.board.lock().partitions.insert(id.clone(), status);
        let task = Task {
            shared: Arc::clone(&self.shared),
            consumer: Arc::clone(&self.consumer),
            assigned: Arc::new(Assigned {
                partition: id.clone(),
                topic_id: assignment.topic_id,
                generation: assignment.generation,
                claim,
            }),
            noted: found.noted,
            refused: found.refused.clone(),
            again: self.partitions.get(&id).is_some_and(|owned| owned.again.is_some()),
            start,
            ended: ended.into_iter().collect(),
            progress: Arc::clone(&progress),
            open: Arc::clone(&self.releases),
            reader,
            wished,
            released,
        };
        let mut owned = Owned::new(assignment, progress);
        owned.found = Some(found);
        owned.wish = wish;
        owned.releases = releases;
        owned.claim = claim;
        owned.settles = begun && self.shared.subscription.settles_itself();
        owned.stored = kept.filter(|kept| *kept == start).unwrap_or(-1);
        self.replace(owned);
        task
    }

    pub(super) fn spawn(
        &mut self,
        id: PartitionId,
        generation: i64,
        task: impl Future<Output = Closed> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let closed = AssertUnwindSafe(task).catch_unwind().await;
            // Handlers are caught one by one, so this is a defect of ours, or of an error's `Display`.
            (id, generation, closed.unwrap_or_else(|_| Closed::Stopped("its task panicked".to_owned())))
        });
    }
}

/// What a partition's task is made of.
struct Task {
    shared: Arc<Shared>,
    consumer: Arc<dyn Consumer>,
    assigned: Arc<Assigned>,
    noted: Noted,
    /// Why it cannot be taken up.
    refused: Option<String>,
    /// It was fenced and is taken again, under the same generation.
    again: bool,
    start: Offset,
    ended: HashSet<Offset>,
    progress: Arc<Progress>,
    open: Arc<Mutex<Open>>,
    reader: Box<dyn PartitionReader>,
    wished: watch::Receiver<Wish>,
    released: mpsc::UnboundedReceiver<Asked>,
}

impl Task {
    /// Waits until it is stored where the partition begins. Else a kill would choose a later start, and what lies between would
    /// never be handled; or what lies there would expire, and nobody would know. And a log that cannot be asked whose a
    /// partition is before anything was settled in it is asked by this.
    async fn begin(&mut self) -> Option<Closed> {
        while !self.progress.begun.load(Ordering::Acquire) {
            tokio::select! {
                biased;
                changed = self.wished.changed() => {
                    let wished = if changed.is_ok() { *self.wished.borrow_and_update() } else { Wish::Lost };
                    match wished {
                        Wish::Run => {}
                        Wish::Drain(_) => return Some(Closed::Drained { unfinished: 0 }),
                        Wish::Lost => return Some(Closed::Fenced),
                    }
                }
                () = self.progress.moved.notified() => {}
            }
        }
        None
    }

    /// Reads what is parked, then runs the partition: nothing is delivered before.
    async fn run(mut self) -> Closed {
        let (group, log) = (self.shared.subscription.name.clone(), Arc::clone(self.shared.bus.log()));
        let environment = self.shared.bus.environment().clone();
        if let Some(refused) = self.refused {
            return Closed::Stopped(refused);
        }
        if let Some(closed) = self.begin().await {
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
                    if self.again {
                        // What its earlier task has under way is stored before what is parked is read, or never.
                        drop(fence(&*log, &group, partition).await?);
                    }
                    if self.shared.replay.is_some() {
                        // What a group of this name once parked is history like all else.
                        return Ok(Rebuilt::default());
                    }
                    let parks = self.shared.subscription.on_failure == OnFailure::Park;
                    rebuild(&*log, &group, partition, *topic_id, self.start, parks).await
                } => match rebuilt {
                    Ok(rebuilt) => break rebuilt,
                    Err(error) => error,
                },
            };
            let later = LogErrorKind::Unreachable == error.kind()
                || self.again
                    && matches!(
                        error.kind(),
                        LogErrorKind::UnknownOutcome | LogErrorKind::Held | LogErrorKind::Fenced
                    );
            if !later {
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
