//! After the faults: all starts anew, what is parked is released, everything settles, everybody drains.

use std::time::Duration;

use aqueduct_core::{BoxError, log::CommitLog};
use aqueduct_runtime::ParkedKey;
use tokio::time::timeout;

use super::{DRAIN_SLACK, LOOK, Run, Step};
use crate::sim::observer::Seen;

/// How long all may take to be settled once every fault is over.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long released keys may take until the next of their records has ended, or until they are parked again.
const RELEASED: Duration = Duration::from_secs(20);

impl<S: Clone + Send + Sync + 'static> Run<'_, S> {
    /// Ends every fault that is still open, repairs, and starts all processes anew.
    pub(super) async fn heal(&mut self) -> Result<(), BoxError> {
        let fault = self.open_fault("restart");
        (self.case.repair)();
        for number in 0..self.seats.len() {
            self.drain(number);
        }
        while self
            .seats
            .iter()
            .any(|seat| seat.running.as_ref().is_none_or(|running| running.draining.is_some()))
        {
            self.step().await?;
        }
        self.after(self.clock.elapsed() + Duration::from_secs(2), Step::Over(fault));
        Ok(())
    }

    pub(super) async fn until_settled(&mut self) -> Result<(), BoxError> {
        let since = self.clock.elapsed();
        while !self.settled().await? {
            if self.clock.elapsed() > since + PATIENCE {
                return Err(self.not_settled().await?.into());
            }
            self.step().await?;
        }
        Ok(())
    }

    /// Releases what is parked, where the run says so, until nothing changes any more. The result is what stays.
    pub(super) async fn release_all(&mut self) -> Result<Vec<ParkedKey>, BoxError> {
        let mut parked = self.parked().await?;
        while self.plan.release && !parked.is_empty() {
            for key in &parked {
                self.release(key.clone()).await?;
            }
            let mut quiet = Duration::ZERO;
            while quiet < RELEASED {
                self.step().await?;
                quiet += LOOK;
                let now = self.parked().await?;
                if now.len() != parked.len()
                    || now.iter().zip(&parked).any(|(now, before)| now.records != before.records)
                {
                    (parked, quiet) = (now, Duration::ZERO);
                }
                if parked.is_empty() {
                    break;
                }
            }
            if quiet >= RELEASED {
                // What is left fails again.
                break;
            }
        }
        self.until_settled().await?;
        Ok(parked)
    }

    pub(super) async fn parked(&self) -> Result<Vec<ParkedKey>, BoxError> {
        let mut parked = Vec::new();
        for topic in &self.topics {
            parked.extend(aqueduct_runtime::parked(&self.operator, &self.group, topic).await?);
        }
        Ok(parked)
    }

    pub(super) async fn release(&self, key: ParkedKey) -> Result<(), BoxError> {
        self.saw(Seen::Released { partition: &key.partition, key: &key.key });
        let released = aqueduct_runtime::release(&self.operator, &self.group, &key.partition, &key.key);
        Ok(released.await.map(drop)?)
    }

    /// Whether nothing is left to do.
    pub(super) async fn settled(&mut self) -> Result<bool, BoxError> {
        for topic in &self.topics {
            let ends = self.log.end_offsets(topic).await?;
            let settled = self.log.settled_offsets(&self.group, topic).await?;
            if ends
                .iter()
                .zip(settled)
                .any(|(end, settled)| *end > settled.map_or(0, |settled| settled.offset))
            {
                return Ok(false);
            }
        }
        Ok(self.steps.is_empty() && self.stored.tables().outbox.is_empty())
    }

    pub(super) async fn not_settled(&self) -> Result<String, BoxError> {
        let mut why = format!("not settled {PATIENCE:?} after all faults were over:");
        for topic in &self.topics {
            let ends = self.log.end_offsets(topic).await?;
            let settled = self.log.settled_offsets(&self.group, topic).await?;
            why += &format!("\n  {topic}: settled {settled:?} of {ends:?}");
        }
        why += &format!("\n  outbox: {} waiting", self.stored.tables().outbox.len());
        for seat in &self.seats {
            match &seat.running {
                None => why += &format!("\n  app-{} does not run", seat.number),
                Some(running) => {
                    let readiness = running.status.readiness();
                    why += &format!("\n  {}: {readiness:?}", running.process.name());
                    for subscription in running.status.subscriptions() {
                        why += &format!("\n    {subscription:?}");
                    }
                }
            }
        }
        Ok(why)
    }

    pub(super) async fn end_all(&mut self) -> Result<(), BoxError> {
        for number in 0..self.seats.len() {
            self.drain(number);
        }
        let limit = self.plan.drain + DRAIN_SLACK;
        for seat in &mut self.seats {
            let Some(running) = seat.running.take() else { continue };
            let name = running.process.name().to_owned();
            match timeout(limit, running.task).await {
                Err(_) => return Err(format!("{name} did not drain within {limit:?}").into()),
                Ok(ended) => ended??,
            }
            running.process.saw(Seen::Drained);
        }
        Ok(())
    }
}
