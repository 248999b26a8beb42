//! Everything at once, for as long as is wanted: two publishers, two groups, kills, pauses, drains.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use checker::Rules;

use super::{
    Judged, MEMBERS,
    roster::Slot,
    stage::{Process, Stage, rules},
};
use crate::{consume::Role, random::Random};

const ROLES: [Role; 2] = [Role::Ledger, Role::Audit];
/// The session timeout of members, in milliseconds.
const SESSION: u64 = 2_000;
/// How long the traces of a fault may last after its end.
const AFTER: Duration = Duration::from_secs(6);
/// The time in which all must be handled once all is healed.
const LIVENESS: Duration = Duration::from_secs(60);

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

pub(crate) fn run(dir: &Path, mut random: Random, length: Duration) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let url = stage.url(&format!("partitions=8&session={SESSION}ms"));
    let mut slots = Vec::new();
    for name in ["p1", "p2"] {
        slots.push(Slot::publisher(name, random.next(), "--rate 60 --keys 60 --repeat"));
    }
    for number in 1..=MEMBERS {
        for role in ROLES {
            slots.push(Slot::consumer(role, number, "--slow 10 --slow-ms 60 --poison 40"));
        }
    }
    for slot in &mut slots {
        slot.start(&stage, &url)?;
    }
    let watcher = stage.watch()?;
    let busy = vec![false; slots.len()];
    let mut play = Play { busy, slots, tasks: Vec::new(), releaser: None, releases: 0, url };
    play.later(RELEASES, Task::Release);
    let end = Instant::now() + length;
    let mut next = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        play.go(&stage)?;
        if next <= Instant::now() {
            next = Instant::now() + random.millis(200, 2_500);
            play.harm(&mut stage, &mut random)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let caught_up = play.heal(&stage)?;
    watcher.stop()?;
    stage.read()?;
    let minutes = length.as_secs() / 60;
    let at_least = [
        ("fault kill", 10 * minutes),
        ("fault pause", 5 * minutes),
        ("drains", 5 * minutes),
        ("acknowledged", 5_000 * minutes),
        ("effects", 5_000 * minutes),
        ("retries", 50 * minutes),
        ("rebalances", 50 * minutes),
        ("duplicates", minutes),
        ("parked", 10 * minutes),
        ("releases", 5 * minutes),
        ("samples", 500 * minutes),
        ("ready", 100 * minutes),
    ];
    let report = stage.judge(&Rules {
        released: true,
        repeating: ["pause".to_owned()].into(),
        blocking: ["pause".to_owned()].into(),
        at_least: at_least.map(|(name, least)| (name.to_owned(), least)).into(),
        ..rules(&ROLES)
    })?;
    Ok(super::alive(report, caught_up, "healed".to_owned()))
}

struct Play {
    slots: Vec<Slot>,
    /// Whether something is done to the slot already.
    busy: Vec<bool>,
    tasks: Vec<(Instant, Task)>,
    /// The operator's process, while there is one.
    releaser: Option<Process>,
    releases: u64,
    url: String,
}

impl Play {
    fn later(&mut self, after: Duration, task: Task) {
        self.tasks.push((Instant::now() + after, task));
    }

    /// Does what is due, and looks after those who drain.
    fn go(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<_> = self.tasks.extract_if(.., |(at, _)| *at <= now).map(|(_, task)| task).collect();
        for task in due {
            match task {
                Task::Start(index, fault) => {
                    self.slots[index].start(stage, &self.url)?;
                    self.busy[index] = false;
                    if let Some(fault) = fault {
                        self.later(AFTER, Task::Heal(fault));
                    }
                }
                Task::GoOn(index, fault) => {
                    if let Some(process) = &self.slots[index].process {
                        process.go_on()?;
                    }
                    self.busy[index] = false;
                    self.later(AFTER, Task::Heal(fault));
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

    fn harm(&mut self, stage: &mut Stage, random: &mut Random) -> anyhow::Result<()> {
        let index = usize::try_from(random.below(u64::try_from(self.slots.len())?))?;
        let choice = random.below(10);
        // What has only just been started cannot be asked to drain yet.
        if self.busy[index] || !self.slots[index].runs(stage) {
            return Ok(());
        }
        self.busy[index] = true;
        let consumes = self.slots[index].consumes();
        match choice {
            0..=2 if consumes => self.slots[index].drain(stage)?,
            3..=5 => {
                let Some(process) = &self.slots[index].process else { return Ok(()) };
                let fault = stage.fault("pause", &process.by);
                process.pause()?;
                // Most outlast the session; some do not, and must then change nothing.
                let length = random.millis(SESSION / 2, 3 * SESSION);
                self.later(length, Task::GoOn(index, fault));
            }
            _ => {
                let fault = self.slots[index].kill(stage)?;
                self.later(random.millis(0, 1_500), Task::Start(index, Some(fault)));
            }
        }
        Ok(())
    }

    /// Ends all harm and all publishing, and waits until all is handled.
    fn heal(&mut self, stage: &Stage) -> anyhow::Result<Result<Duration, i64>> {
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
        let started = Instant::now();
        self.release(stage, LIVENESS.as_secs())?;
        if let Some(mut releaser) = self.releaser.take() {
            let status = releaser.wait(LIVENESS * 2)?;
            ensure!(status.success(), "not all keys were released: {}", releaser.printed()?);
        }
        let caught_up = stage.catch_up(&ROLES, LIVENESS.saturating_sub(started.elapsed()))?;
        for slot in self.slots.iter_mut().filter(|slot| slot.consumes()) {
            slot.check()?;
            slot.drain(stage)?;
            slot.wait_drained(stage)?;
        }
        Ok(caught_up)
    }
}
