//! A member of a group.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind,
    log::{Assignment, Consumer, GroupToken, PartitionId, PartitionReader, Settlement, Signal, Start},
};
use tokio::sync::{Mutex, oneshot};

use crate::{
    changes,
    command::Command,
    error::closed,
    groups::{self, CurrentId, Joining, SignalQueue},
    membership,
    reader::EmbeddedReader,
    shared::{Handle, Shared, Topic},
};

/// How long leaving waits for its turn to write. Beyond it others hear of it a little later.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// What a group token proves: which member of which group of which log.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Arc<str>,
    left: Arc<AtomicBool>,
    id: CurrentId,
}

impl Membership {
    /// A member that left is over, whatever its generations are.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.shared.check()?;
        if !self.left.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(LogError::new(LogErrorKind::Closed, format!("this consumer of group {} was closed", self.group)))
    }

    /// Who it is to the database: that decides, in the transaction that writes, what the member owns.
    pub(crate) fn id(&self) -> i64 {
        self.id.load(Ordering::Acquire)
    }
}

/// A member of a group of this process.
#[derive(Debug)]
pub(crate) struct EmbeddedConsumer {
    handle: Arc<Handle>,
    membership: Membership,
    /// Its number in this process.
    local: u64,
    signals: Mutex<SignalQueue>,
}

impl EmbeddedConsumer {
    pub(crate) async fn join(
        handle: Arc<Handle>,
        group: &str,
        topics: &[Arc<Topic>],
    ) -> Result<Self, LogError> {
        let group = Arc::from(group);
        let Joining { local, id, signals, joined } = groups::join(&handle, &group, topics)?;
        let membership = Membership { shared: Arc::clone(&handle.shared), group, left: Arc::default(), id };
        // From here on, dropping it leaves.
        let consumer = Self { handle, membership, local, signals: Mutex::new(signals) };
        joined.await.map_err(|_| closed())??;
        Ok(consumer)
    }

    async fn check_generations(&self, starts: &[(Assignment, Start)]) -> Result<(), LogError> {
        let member = self.membership.id();
        let mut held = Vec::with_capacity(starts.len());
        for (assignment, _) in starts {
            let partition = &assignment.partition;
            let topic = self.handle.require_topic(&partition.topic).await?;
            if let Some(found) = topic.partition(partition.partition) {
                held.push((found.id, partition.clone(), assignment.generation));
            }
        }
        let (shared, group) = (Arc::clone(&self.handle.shared), Arc::clone(&self.membership.group));
        self.handle
            .query(move |connection| {
                for (id, partition, generation) in held {
                    let current = membership::owner(connection, &group, id)
                        .map_err(|error| shared.error("cannot read a generation", error))?;
                    if current != Some((Some(member), generation)) {
                        return Err(changes::stale(&group, &partition, (member, generation), current));
                    }
                }
                Ok(())
            })
            .await
    }

    /// What it gives is told when others can have what this member owned.
    fn leave(&self) -> Option<oneshot::Receiver<Result<(), LogError>>> {
        let left = self.membership.left.swap(true, Ordering::AcqRel);
        if left { None } else { groups::leave(&self.handle, self.local) }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

impl Consumer for EmbeddedConsumer {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async {
            self.membership.check()?;
            self.signals.lock().await.recv().await.unwrap_or_else(|| Err(closed()))
        })
    }

    fn confirm(&self, assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        Box::pin(async move {
            self.membership.check()?;
            let (shared, group) = (Arc::clone(&self.handle.shared), Arc::clone(&self.membership.group));
            let member = self.membership.id();
            let owned = self.handle.query(move |connection| {
                let owned = membership::owned(connection, &group, member);
                owned.map_err(|error| shared.error("cannot read what a member owns", error))
            });
            let owned = owned.await?.into_iter().map(|(one, _)| one);
            let asked = |one: &Assignment| {
                assignments
                    .iter()
                    .any(|asked| (&asked.partition, asked.generation) == (&one.partition, one.generation))
            };
            Ok(owned.filter(asked).collect())
        })
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(async move {
            self.membership.check()?;
            self.check_generations(&starts).await?;
            let mut readers: Vec<Box<dyn PartitionReader>> = Vec::with_capacity(starts.len());
            for (assignment, start) in starts {
                let reader =
                    EmbeddedReader::open(Arc::clone(&self.handle), &assignment.partition, start).await?;
                readers.push(Box::new(reader));
            }
            Ok(readers)
        })
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        groups::revoked(&self.handle, self.local, partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            if let Err(error) = self.membership.check() {
                return vec![Err(error); settlements.len()];
            }
            let (group, member) = (Arc::clone(&self.membership.group), self.membership.id());
            let count = settlements.len();
            let stored =
                self.handle.command(|reply| Command::Settle { group, member, settlements, reply }).await;
            stored.unwrap_or_else(|error| vec![Err(error); count])
        })
    }

    fn group_token(&self) -> GroupToken {
        GroupToken(Arc::new(self.membership.clone()))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        let left = self.leave();
        Box::pin(async {
            let Some(left) = left else { return Ok(()) };
            match tokio::time::timeout(LEAVE_WAIT, left).await {
                Ok(Ok(left)) => left,
                // The log was closed, which ends every member.
                Ok(Err(_)) => Ok(()),
                // Another process holds the write lock: the member leaves when it lets go.
                Err(_) => Ok(()),
            }
        })
    }
}
