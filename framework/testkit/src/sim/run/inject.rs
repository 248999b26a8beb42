//! Faults of the schedule: how each begins and ends.

use std::sync::Arc;

use aqueduct_core::{BoxError, LogErrorKind};
use aqueduct_memory::Chances;
use aqueduct_runtime::ParkedKey;

use super::{Run, Seat, Step};
use crate::sim::{
    observer::Seen,
    plan::{Fault, Scheduled},
};

impl<S: Clone + Send + Sync + 'static> Run<'_, S> {
    pub(super) fn open_fault(&mut self, kind: &'static str) -> u64 {
        self.last_fault += 1;
        let number = self.last_fault;
        *self.summary.faults.entry(kind).or_default() += 1;
        self.saw(Seen::Fault { number, kind });
        number
    }

    pub(super) async fn begin(&mut self, scheduled: Scheduled) -> Result<(), BoxError> {
        let Scheduled { fault, process, lasts, .. } = scheduled;
        let now = self.clock.elapsed();
        let running = self.seats.get(process).and_then(|seat| seat.running.as_ref());
        let alone = match fault {
            Fault::Crash
            | Fault::Drain
            | Fault::Pause
            | Fault::Zombie
            | Fault::Expire
            | Fault::DeadClient
            | Fault::SilentClient => running.is_none_or(|running| running.draining.is_some()),
            Fault::DatabaseOutage | Fault::DatabaseStorm => !self.case.database,
            Fault::Join | Fault::Lose | Fault::SetAsideOutage | Fault::LogStorm | Fault::Release => false,
        };
        if alone {
            // There is nothing to do it to.
            return Ok(());
        }
        let handle = running.map(|running| Arc::clone(&running.process));
        let number = self.open_fault(fault.name());
        self.after(now + lasts, Step::End(scheduled, number));
        let faults = self.log.faults();
        match (fault, handle) {
            (Fault::Crash, Some(handle)) => {
                handle.kill();
                if let Some(running) = self.seats[process].running.take() {
                    running.task.abort();
                }
            }
            (Fault::Drain, Some(_)) => self.drain(process),
            (Fault::Pause, Some(handle)) => handle.pause(),
            (Fault::Zombie, Some(handle)) => {
                handle.pause();
                faults.expire(&handle.log);
            }
            (Fault::Expire, Some(handle)) => faults.expire(&handle.log),
            (Fault::DeadClient, Some(handle)) => {
                faults.fail_consumers(&handle.log, LogErrorKind::Unreachable);
            }
            (Fault::SilentClient, Some(handle)) => {
                faults.silence_consumers(&handle.log);
                faults.expire(&handle.log);
            }
            (Fault::Join, _) => {
                let number = self.seats.len();
                self.seats.push(Seat { number, incarnation: 0, running: None });
                self.start(number).await?;
            }
            (Fault::Lose, _) => {
                // Fails where no member has joined yet: then there is nothing to lose.
                let _ = faults.lose(&self.group);
            }
            (Fault::SetAsideOutage, _) => {
                for ending in [".dead", ".parked"] {
                    faults.fail_topics(ending, LogErrorKind::Unreachable);
                }
            }
            (Fault::Release, _) => self.release_now(),
            (Fault::DatabaseOutage, _) => self.stored.outage(true),
            (Fault::LogStorm, _) => faults.by_chance(self.dice.number(), self.plan.log_storm),
            (Fault::DatabaseStorm, _) => self.stored.turn(self.plan.database_storm),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn end(&mut self, scheduled: Scheduled) {
        let Scheduled { fault, process, .. } = scheduled;
        let running = self.seats.get_mut(process).and_then(|seat| seat.running.as_mut());
        match fault {
            Fault::Crash => self.after(self.clock.elapsed(), Step::Start(process)),
            Fault::Pause | Fault::Zombie | Fault::SilentClient => {
                if let Some(running) = running {
                    running.process.resume();
                    // It could not drain while it was paused.
                    running.draining = running.draining.map(|_| self.clock.elapsed());
                }
            }
            Fault::SetAsideOutage => self.log.faults().heal_topics(),
            Fault::DatabaseOutage => self.stored.outage(false),
            Fault::LogStorm => self.log.faults().by_chance(0, Chances::default()),
            Fault::DatabaseStorm => self.stored.turn(Chances::default()),
            Fault::Drain | Fault::Expire | Fault::DeadClient | Fault::Join | Fault::Lose | Fault::Release => {
            }
        }
    }

    /// Releases what is parked now, as an operator would while all else goes on.
    pub(super) fn release_now(&self) {
        let (operator, group, topics) = (self.operator.clone(), Arc::clone(&self.group), self.topics.clone());
        let (clock, observer) = (self.clock, Arc::clone(&self.case.observer));
        tokio::spawn(async move {
            for topic in &topics {
                // An operator whose call fails tries again another time.
                let Ok(parked) = aqueduct_runtime::parked(&operator, &group, topic).await else { continue };
                for ParkedKey { partition, key, .. } in parked {
                    observer.saw(
                        clock.elapsed(),
                        "operator",
                        Seen::Released { partition: &partition, key: &key },
                    );
                    if aqueduct_runtime::release(&operator, &group, &partition, &key).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}
