//! One program that uses the log, as faults see it: it runs, it is paused, or it was killed.

use aqueduct_core::{LogError, LogErrorKind};

use crate::switch::Switch;

/// What a program can do at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Runs,
    Paused,
    Killed,
}

/// Shared by every handle that one program has.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u64,
    life: Switch<Life>,
    /// Its consumers neither hear nor answer.
    silent: Switch<bool>,
    /// Its consumers hear no signal.
    deaf: Switch<bool>,
}

impl Process {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, life: Switch::new(Life::Runs), silent: Switch::new(false), deaf: Switch::new(false) }
    }

    /// Waits while it is paused. `Closed`: it was killed.
    pub(crate) async fn turn(&self) -> Result<(), LogError> {
        match self.life.until(|life| life != Life::Paused).await {
            Life::Runs | Life::Paused => Ok(()),
            Life::Killed => Err(LogError::new(LogErrorKind::Closed, "the process was killed on command")),
        }
    }

    /// As [`Process::turn`], for what a consumer does.
    pub(crate) async fn consumer_turn(&self) -> Result<(), LogError> {
        loop {
            self.turn().await?;
            if !self.silent.get() {
                return Ok(());
            }
            self.silent.until(|silent| !silent).await;
        }
    }

    /// Waits while its consumers are told nothing.
    pub(crate) async fn hears(&self) {
        self.deaf.until(|deaf| !deaf).await;
    }

    pub(crate) fn deafen(&self, deaf: bool) {
        self.deaf.change(|_| deaf);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.life.get() == Life::Paused
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.life.get() == Life::Killed
    }

    pub(crate) fn kill(&self) {
        self.life.change(|_| Life::Killed);
        self.silent.change(|_| false);
    }

    pub(crate) fn pause(&self) {
        self.live(Life::Paused);
    }

    pub(crate) fn resume(&self) {
        self.live(Life::Runs);
        self.silent.change(|_| false);
    }

    pub(crate) fn silence(&self) {
        let killed = self.is_killed();
        self.silent.change(|_| !killed);
    }

    /// Nothing wakes what was killed.
    fn live(&self, next: Life) {
        self.life.change(|life| if life == Life::Killed { life } else { next });
    }
}
