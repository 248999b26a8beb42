//! A member of a group.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind,
    group::MemberId,
    log::{Assignment, Consumer, GroupToken, PartitionId, PartitionReader, Settlement, Signal, Start},
};
use tokio::sync::Mutex;

use crate::{
    changes,
    command::Command,
    error::closed,
    groups::{self, Held, SignalQueue},
    reader::EmbeddedReader,
    shared::{Handle, Shared, Topic, lock},
};

/// What a group token proves: which member of which group of which log.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Arc<str>,
    left: Arc<AtomicBool>,
    held: Held,
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

    /// Refuses a generation that this member was not given. Whether it is still the newest is for the database to
    /// say, in the transaction that writes.
    pub(crate) fn check_held(&self, partition: &PartitionId, generation: i64) -> Result<(), LogError> {
        let held = lock(&self.held).get(partition).copied();
        if held == Some(generation) {
            return Ok(());
        }
        Err(changes::stale(&self.group, partition, generation, held))
    }
}

/// A member of a group of this process.
#[derive(Debug)]
pub(crate) struct EmbeddedConsumer {
    handle: Arc<Handle>,
    membership: Membership,
    member: MemberId,
    signals: Mutex<SignalQueue>,
}

impl EmbeddedConsumer {
    pub(crate) fn join(handle: Arc<Handle>, group: &str, topics: &[Arc<Topic>]) -> Result<Self, LogError> {
        let group = Arc::from(group);
        let (member, signals, held) = groups::join(&handle, &group, topics)?;
        let membership = Membership { shared: Arc::clone(&handle.shared), group, left: Arc::default(), held };
        Ok(Self { handle, membership, member, signals: Mutex::new(signals) })
    }

    async fn check_generations(&self, starts: &[(Assignment, Start)]) -> Result<(), LogError> {
        let mut held = Vec::with_capacity(starts.len());
        for (assignment, _) in starts {
            let partition = &assignment.partition;
            self.membership.check_held(partition, assignment.generation)?;
            let topic = self.handle.require_topic(&partition.topic).await?;
            if let Some(found) = topic.partition(partition.partition) {
                held.push((found.id, partition.clone(), assignment.generation));
            }
        }
        let (shared, group) = (Arc::clone(&self.handle.shared), Arc::clone(&self.membership.group));
        self.handle
            .query(move |connection| {
                for (id, partition, generation) in held {
                    let current = changes::generation(connection, &group, id)
                        .map_err(|error| shared.error("cannot read a generation", error))?;
                    if current != Some(generation) {
                        return Err(changes::stale(&group, &partition, generation, current));
                    }
                }
                Ok(())
            })
            .await
    }

    fn leave(&self) {
        if !self.membership.left.swap(true, Ordering::AcqRel) {
            groups::leave(&self.handle, &self.membership.group, self.member);
        }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Consumer for EmbeddedConsumer {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async {
            self.membership.check()?;
            self.signals.lock().await.recv().await.unwrap_or_else(|| Err(closed()))
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
        groups::revoked(&self.handle, &self.membership.group, self.member, partitions);
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            if let Err(error) = self.membership.check() {
                return vec![Err(error); settlements.len()];
            }
            let checked: Vec<_> = settlements
                .iter()
                .map(|settlement| self.membership.check_held(&settlement.partition, settlement.generation))
                .collect();
            let own = settlements.into_iter().zip(&checked).filter(|(_, checked)| checked.is_ok());
            let own: Vec<_> = own.map(|(settlement, _)| settlement).collect();
            let group = Arc::clone(&self.membership.group);
            let stored =
                self.handle.command(|reply| Command::Settle { group, settlements: own, reply }).await;
            let mut stored = match stored {
                Ok(stored) => stored.into_iter(),
                Err(error) => return vec![Err(error); checked.len()],
            };
            let mut next = || stored.next().unwrap_or_else(|| Err(closed()));
            checked.into_iter().map(|checked| checked.and_then(|()| next())).collect()
        })
    }

    fn group_token(&self) -> GroupToken {
        GroupToken(Arc::new(self.membership.clone()))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.leave();
        Box::pin(async { Ok(()) })
    }
}
