//! Who plays: publishers and consumers, each started again and again.

use std::time::Duration;

use anyhow::{Context, ensure};
use checker::Observation;

use super::stage::{Process, Stage};
use crate::consume::Role;

/// A place in the play that one process after another takes.
pub(crate) struct Slot {
    name: String,
    part: Part,
    /// More options for its processes.
    words: String,
    starts: u64,
    pub(crate) process: Option<Process>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Publisher { seed: u64 },
    Consumer(Role),
}

/// How long a drain is waited for before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

impl Slot {
    pub(crate) fn publisher(name: &str, seed: u64, words: &str) -> Self {
        Self {
            name: name.to_owned(),
            part: Part::Publisher { seed },
            words: words.to_owned(),
            starts: 0,
            process: None,
        }
    }

    pub(crate) fn consumer(role: Role, number: usize, words: &str) -> Self {
        let name = format!("{}-{number}", role.group());
        Self { name, part: Part::Consumer(role), words: words.to_owned(), starts: 0, process: None }
    }

    pub(crate) fn consumes(&self) -> bool {
        matches!(self.part, Part::Consumer(_))
    }

    pub(crate) fn start(&mut self, stage: &Stage, url: &str) -> anyhow::Result<()> {
        self.starts += 1;
        let by = format!("{}.{}", self.name, self.starts);
        let mut command = match self.part {
            Part::Publisher { seed } => {
                let (source, incarnation) = (&self.name, self.starts);
                stage.command(&format!(
                    "publisher --source {source} --incarnation {incarnation} --seed {seed}"
                ))?
            }
            Part::Consumer(role) => {
                let (group, drain) = (role.group(), stage.drain);
                let mut command =
                    stage.command(&format!("consumer --by {by} --role {group} --drain-ms {drain}"))?;
                command.arg("--healed").arg(&stage.healed);
                if role == Role::Ledger {
                    command.arg("--database").arg(&stage.database);
                }
                command
            }
        };
        command.arg("--log").arg(url).arg("--out").arg(&stage.seen).args(self.words.split_whitespace());
        self.process = Some(stage.start(command, &by)?);
        Ok(())
    }

    /// Whether its process has said something: it runs, and listens for signals.
    pub(crate) fn runs(&self, stage: &Stage) -> bool {
        let by = self.process.as_ref().map(|process| stage.seen.join(format!("{}.jsonl", process.by)));
        by.is_some_and(|seen| seen.metadata().is_ok_and(|file| file.len() > 0))
    }

    /// Kills its process; the fault is open.
    pub(crate) fn kill(&mut self, stage: &mut Stage) -> anyhow::Result<u64> {
        let process = self.process.take().context("nothing to kill")?;
        let fault = stage.fault("kill", &process.by);
        process.kill()?;
        Ok(fault)
    }

    /// Asks its process to drain.
    pub(crate) fn drain(&self, stage: &Stage) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("nothing to drain")?;
        if self.consumes() {
            let deadline = stage.drain * 1_000;
            stage.sink.see(Observation::Drain { process: process.by.clone(), deadline });
        }
        process.ask()
    }

    /// Whether the process that was asked to drain has ended; then its report is written down.
    pub(crate) fn drained(&mut self, stage: &Stage) -> anyhow::Result<bool> {
        let Some(process) = &mut self.process else { return Ok(true) };
        let Some(status) = process.ended()? else { return Ok(false) };
        ensure!(status.success(), "{} failed as it ended: {status}: {}", process.by, process.printed()?);
        if matches!(self.part, Part::Consumer(_)) {
            let (by, unfinished) = (process.by.clone(), process.unfinished()?);
            stage.sink.see(Observation::Drained { process: by, unfinished });
        }
        self.process = None;
        Ok(true)
    }

    /// Waits for that.
    pub(crate) fn wait_drained(&mut self, stage: &Stage) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process {
            process.wait(PATIENCE)?;
        }
        self.drained(stage).map(|_| ())
    }

    /// Fails where its process ended and nobody asked it to.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.ended()?
        {
            anyhow::bail!("{} ended by itself: {status}: {}", process.by, process.printed()?);
        }
        Ok(())
    }
}
