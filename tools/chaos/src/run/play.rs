//! The play of publishers and consumers: killed, stopped, asked to drain, and started again; keys that were parked are
//! released.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    roster::Slot,
    stage::{Process, Stage},
};
use crate::{consume::Role, random::Random};

pub(crate) const ROLES: [Role; 2] = [Role::Ledger, Role::Audit];

/// How long things take on a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The session timeout of members, in milliseconds.
    pub(crate) session: u64,
    /// How long the traces of a fault may last after its end.
    pub(crate) after: Duration,
    /// The time in which all must be handled once all is healed.
    pub(crate) liveness: Duration,
}

/// Something to do later.
enum Task {
    /// Start a slot again; the fault heals a while after.
    Start(usize, Option<u64>),
    /// Let a slot go on; the fault heals a while after.
    GoOn(usize, u64),
    Heal(u64),
    /// What fails for ever is healed for a while, and what is parked is released.
    Release,
}

/// How often parked keys are released, and for how long.
const RELEASES: Duration = Duration::from_secs(20);
const RELEASING: u64 = 8;

pub(crate) struct Play {
    slots: Vec<Slot>,
    /// Whether something is done to the slot already.
    busy: Vec<bool>,
    tasks: Vec<(Instant, Task)>,
    /// The operator's process, while there is one.
    releaser: Option<Process>,
    releases: u64,
    url: String,
    times: Times,
}

impl Play {
    /// Starts all.
    pub(crate) fn start(
        stage: &Stage,
        mut slots: Vec<Slot>,
        url: String,
        times: Times,
    ) -> anyhow::Result<Self> {
        for slot in &mut slots {
            slot.start(stage, &url)?;
        }
        let busy = vec![false; slots.len()];
        let mut play = Self { busy, slots, tasks: Vec::new(), releaser: None, releases: 0, url, times };
        play.later(RELEASES, Task::Release);
        Ok(play)
    }

    fn later(&mut self, after: Duration, task: Task) {
        self.tasks.push((Instant::now() + after, task));
    }

    /// Does what is due, and looks after those who drain.
    pub(crate) fn go(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<_> = self.tasks.extract_if(.., |(at, _)| *at <= now).map(|(_, task)| task).collect();
        for task in due {
            match task {
                Task::Start(index, fault) => {
                    self.slots[index].start(stage, &self.url)?;
                    self.busy[index] = false;
                    if let Some(fault) = fault {
                        self.later(self.times.after, Task::Heal(fault));
                    }
                }
                Task::GoOn(index, fault) => {
                    if let Some(process) = &self.slots[index].process {
                        process.go_on()?;
                    }
                    self.busy[index] = false;
                    self.later(self.times.after, Task::Heal(fault));
                }
                Task::Heal(fault) => stage.healed(fault),
                Task::Release => {
                    std::fs::write(&stage.healed, "")?;
                    self.release(stage, RELEASING)?;
                }
            }
        }
        // Whether it reached its end does not matter while there is chaos.
        if let Some(releaser) = &mut self.releaser
            && releaser.ended()?.is_some()
        {
            self.releaser = None;
            std::fs::remove_file(&stage.healed)?;
            self.later(RELEASES, Task::Release);
        }
        for index in 0..self.slots.len() {
            if !self.busy[index] {
                self.slots[index].check()?;
            } else if self.slots[index].process.is_some()
                && self.draining(index)
                && self.slots[index].drained(stage)?
            {
                self.later(Duration::from_millis(100), Task::Start(index, None));
            }
        }
        Ok(())
    }

    /// Starts the operator.
    fn release(&mut self, stage: &Stage, within: u64) -> anyhow::Result<()> {
        self.releases += 1;
        let by = format!("operator.{}", self.releases);
        let mut command = stage.command(&format!("release --by {by} --within {within}"))?;
        command.args(stage.roles.iter().map(|role| format!("--role={}", role.group())));
        command.arg("--log").arg(&self.url).arg("--out").arg(&stage.seen);
        self.releaser = Some(stage.start(command, &by)?);
        Ok(())
    }

    /// Whether a busy slot drains: nothing else is planned for it.
    fn draining(&self, index: usize) -> bool {
        !self
            .tasks
            .iter()
            .any(|(_, task)| matches!(task, Task::Start(of, _) | Task::GoOn(of, _) if *of == index))
    }

    /// Harms one of them, if nothing is done to it already.
    pub(crate) fn harm(&mut self, stage: &mut Stage, random: &mut Random) -> anyhow::Result<()> {
        let Some(index) = self.idle(stage, random)? else { return Ok(()) };
        let session = self.times.session;
        match random.below(10) {
            0..=2 if self.slots[index].consumes() => self.slots[index].drain(stage)?,
            3..=5 => {
                // Most outlast the session; some do not, and must then change nothing.
                let length = random.millis(session / 2, 3 * session);
                let long = length > Duration::from_millis(session);
                let Some(process) = &self.slots[index].process else { return Ok(()) };
                let fault = stage.fault(if long { "long pause" } else { "pause" }, &process.by);
                process.pause()?;
                self.later(length, Task::GoOn(index, fault));
            }
            _ => {
                let fault = self.slots[index].kill(stage)?;
                self.later(random.millis(0, 1_500), Task::Start(index, Some(fault)));
            }
        }
        self.busy[index] = true;
        Ok(())
    }

    /// Asks one of them to drain, which is no fault.
    pub(crate) fn drain(&mut self, stage: &Stage, random: &mut Random) -> anyhow::Result<()> {
        if let Some(index) = self.idle(stage, random)?.filter(|index| self.slots[*index].consumes()) {
            self.slots[index].drain(stage)?;
            self.busy[index] = true;
        }
        Ok(())
    }

    /// One of them to whom nothing is done.
    fn idle(&self, stage: &Stage, random: &mut Random) -> anyhow::Result<Option<usize>> {
        let index = usize::try_from(random.below(u64::try_from(self.slots.len())?))?;
        // What has only just been started cannot be asked to drain yet.
        Ok(Some(index).filter(|index| !self.busy[*index] && self.slots[*index].runs(stage)))
    }

    /// Ends all harm and all publishing, and waits until all is handled.
    pub(crate) fn heal(&mut self, stage: &Stage) -> anyhow::Result<Result<Duration, i64>> {
        self.tasks.retain(|(_, task)| !matches!(task, Task::Release));
        while self.busy.contains(&true) || !self.tasks.is_empty() {
            self.go(stage)?;
            self.tasks.retain(|(_, task)| !matches!(task, Task::Release));
            thread::sleep(Duration::from_millis(5));
        }
        if let Some(mut releaser) = self.releaser.take() {
            releaser.wait(Duration::from_secs(4 * RELEASING))?;
        }
        std::fs::write(&stage.healed, "")?;
        for slot in self.slots.iter_mut().filter(|slot| !slot.consumes()) {
            slot.check()?;
            slot.drain(stage)?;
            slot.wait_drained(stage)?;
        }
        self.release(stage, self.times.liveness.as_secs())?;
        if let Some(mut releaser) = self.releaser.take() {
            let status = releaser.wait(self.times.liveness * 2)?;
            ensure!(status.success(), "not all keys were released: {}", releaser.printed()?);
        }
        let caught_up = stage.catch_up(stage.roles, self.times.liveness)?;
        for slot in self.slots.iter_mut().filter(|slot| slot.consumes()) {
            slot.check()?;
            slot.drain(stage)?;
            slot.wait_drained(stage)?;
        }
        Ok(caught_up)
    }
}
