//! A member of a group.

use std::{pin::pin, sync::Arc};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind,
    group::MemberId,
    log::{Assignment, Consumer, GroupToken, PartitionId, PartitionReader, Settlement, Signal, Start},
};
use tokio::sync::Notify;

use crate::{
    plan::{self, Call, Verdict},
    process::Process,
    reader::MemoryReader,
    state::Shared,
};

/// Who a consumer is; what its [`GroupToken`] holds.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: Arc<Process>,
    pub(crate) group: String,
    pub(crate) member: MemberId,
}

impl Membership {
    fn leave(&self) -> Result<(), LogError> {
        let mut state = self.shared.open()?;
        let (group, topics) = state.group_mut(&self.group)?;
        group.leave(self.member, topics)
    }
}

#[derive(Debug)]
pub(crate) struct MemoryConsumer {
    membership: Arc<Membership>,
    told: Arc<Notify>,
}

impl MemoryConsumer {
    pub(crate) fn join(
        shared: &Arc<Shared>,
        process: &Arc<Process>,
        group: &str,
        topics: &[aqueduct_core::TopicName],
    ) -> Result<Self, LogError> {
        let mut guard = shared.open()?;
        let state = &mut *guard;
        state.next_member += 1;
        let member = state.next_member;
        let told = state.groups.entry(group.to_owned()).or_default().join(
            member,
            process.number,
            topics,
            &state.topics,
        )?;
        let (shared, process) = (Arc::clone(shared), Arc::clone(process));
        let membership = Membership { shared, process, group: group.to_owned(), member };
        Ok(Self { membership: Arc::new(membership), told })
    }

    fn next_signal(&self) -> Result<Option<Signal>, LogError> {
        let Membership { shared, group, member, .. } = &*self.membership;
        let mut state = shared.open()?;
        let (state, topics) = state.group_mut(group)?;
        state.next_signal(group, *member, topics)
    }

    fn settle_one(&self, settlement: Settlement) -> Result<(), LogError> {
        let Membership { shared, group, member, .. } = &*self.membership;
        let mut state = shared.open()?;
        let (state, topics) = state.group_mut(group)?;
        state.check_client(*member)?;
        state.check(group, *member, &settlement, topics)?;
        state.store(settlement);
        Ok(())
    }

    /// A call as its fate has it: late, and carried out by `done`, which is told what its caller shall hear.
    async fn call<T>(
        &self,
        call: Call,
        done: impl FnOnce(&Arc<Membership>, Verdict) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let Membership { shared, process, .. } = &*self.membership;
        process.consumer_turn().await?;
        let fate = shared.fate(call);
        plan::wait(fate.before).await;
        process.consumer_turn().await?;
        let answer = done(&self.membership, fate.verdict);
        plan::wait(fate.after).await;
        process.consumer_turn().await?;
        answer
    }

    async fn ask<T>(
        &self,
        answer: impl FnOnce(&Arc<Membership>) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let answer = |membership: &Arc<Membership>, verdict| match verdict {
            Verdict::Fail(kind) => Err(plan::error(kind, &membership.group)),
            Verdict::Pass | Verdict::AnswerLost => answer(membership),
        };
        self.call(Call::Question, answer).await
    }

    async fn settle_all(&self, settlements: &[Settlement]) -> Result<Vec<Result<(), LogError>>, LogError> {
        let settle = |verdict, settlement: &Settlement| {
            if let Verdict::Fail(kind) = verdict {
                return Err(plan::error(kind, &settlement.partition));
            }
            let stored = self.settle_one(settlement.clone());
            if verdict == Verdict::AnswerLost {
                return Err(plan::error(LogErrorKind::UnknownOutcome, &settlement.partition));
            }
            stored
        };
        let settle_each = |_: &Arc<Membership>, verdict| {
            Ok(settlements.iter().map(|settlement| settle(verdict, settlement)).collect())
        };
        self.call(Call::Settle, settle_each).await
    }
}

impl Consumer for MemoryConsumer {
    fn signal(&self) -> BoxFuture<'_, Result<Signal, LogError>> {
        Box::pin(async move {
            loop {
                self.membership.process.consumer_turn().await?;
                self.membership.process.hears().await;
                let mut told = pin!(self.told.notified());
                told.as_mut().enable();
                if let Some(signal) = self.next_signal()? {
                    return Ok(signal);
                }
                told.await;
            }
        })
    }

    fn confirm(&self, mut assignments: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Assignment>, LogError>> {
        Box::pin(self.ask(move |membership| {
            let Membership { shared, group, member, .. } = &**membership;
            let state = shared.open()?;
            let found = state.group(group)?;
            found.check_client(*member)?;
            let mut failed = None;
            assignments.retain_mut(|one| {
                one.settled = found.settled(&one.partition).cloned();
                match found.check_owner(group, *member, &one.partition, one.generation) {
                    Ok(()) => true,
                    Err(error) => {
                        failed = failed
                            .take()
                            .or((error.kind() != LogErrorKind::StaleGeneration).then_some(error));
                        false
                    }
                }
            });
            failed.map_or(Ok(assignments), Err)
        }))
    }

    fn assign(
        &self,
        starts: Vec<(Assignment, Start)>,
    ) -> BoxFuture<'_, Result<Vec<Box<dyn PartitionReader>>, LogError>> {
        Box::pin(self.ask(move |membership| {
            let Membership { shared, process, group, member } = &**membership;
            let state = shared.open()?;
            let mut readers: Vec<Box<dyn PartitionReader>> = Vec::with_capacity(starts.len());
            for (Assignment { partition, generation, .. }, start) in starts {
                state.group(group)?.check_client(*member)?;
                state.group(group)?.check_heard(group, *member, &partition, generation)?;
                let membership = Some(Arc::clone(membership));
                let reader =
                    MemoryReader::open(shared, process, membership, &state.topics, &partition, start)?;
                readers.push(Box::new(reader));
            }
            Ok(readers)
        }))
    }

    fn revoked(&self, partitions: &[PartitionId]) {
        let Membership { shared, group, member, .. } = &*self.membership;
        // A closed log has no groups left to move partitions in.
        let Ok(mut state) = shared.open() else { return };
        if let Ok((state, topics)) = state.group_mut(group) {
            // Fails only for a topic that is gone, and topics are never removed.
            let _ = state.revoked(*member, partitions, topics);
        }
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Vec<Result<(), LogError>>> {
        Box::pin(async move {
            match self.settle_all(&settlements).await {
                Ok(results) => results,
                Err(error) => settlements.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }

    fn group_token(&self) -> GroupToken {
        GroupToken(Arc::clone(&self.membership) as _)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            self.membership.process.turn().await?;
            self.membership.leave()
        })
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        // After the log was closed there is nothing to leave.
        let _ = self.membership.leave();
    }
}
