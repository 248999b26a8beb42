//! What a seed stands for: every option of a run, derived from it.

use std::{fmt, time::Duration};

use aqueduct_memory::Chances;
use aqueduct_runtime::{OnFailure, Retry, Subscription};

use super::dice::Dice;

/// A fault of a run. Processes are named by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Killed at once, started again after a while.
    Crash,
    /// Asked to drain, started again when it has ended.
    Drain,
    /// Stopped, as by SIGSTOP, and woken within its session.
    Pause,
    /// Stopped beyond its session: others take its partitions before it wakes.
    Zombie,
    /// Its session runs out while it works.
    Expire,
    /// Its consumers die, and say so.
    DeadClient,
    /// Its consumers hang, and say nothing.
    SilentClient,
    /// One more process joins.
    Join,
    /// All members of the group lose what they have.
    Lose,
    /// Dead letters and parked copies cannot be written.
    SetAsideOutage,
    /// The database refuses everything.
    DatabaseOutage,
    /// Calls to the log are refused, late, or have outcomes that nobody knows.
    LogStorm,
    /// The same of the database.
    DatabaseStorm,
    /// An operator releases every key that is parked.
    Release,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::Drain,
        Self::Pause,
        Self::Zombie,
        Self::Expire,
        Self::DeadClient,
        Self::SilentClient,
        Self::Join,
        Self::Lose,
        Self::SetAsideOutage,
        Self::DatabaseOutage,
        Self::LogStorm,
        Self::DatabaseStorm,
        Self::Release,
    ];

    /// Its name, as a checker knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Drain => "drain",
            Self::Pause => "pause",
            Self::Zombie => "zombie",
            Self::Expire => "expire",
            Self::DeadClient => "dead-client",
            Self::SilentClient => "silent-client",
            Self::Join => "join",
            Self::Lose => "lose",
            Self::SetAsideOutage => "set-aside-outage",
            Self::DatabaseOutage => "database-outage",
            Self::LogStorm => "log-storm",
            Self::DatabaseStorm => "database-storm",
            Self::Release => "release",
        }
    }
}

/// When a fault happens, to whom, for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    /// After the beginning.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// The process, where it is one's.
    pub process: usize,
    /// How long.
    pub lasts: Duration,
}

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishing {
    /// Each is awaited; one that failed is tried again, under the same id.
    Awaited,
    /// So many at once, each awaited later.
    Pipelined(usize),
    /// In batches of so many.
    Batched(usize),
}

/// The options of one run. `Display` prints every one of them.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Processes of the service at the beginning.
    pub processes: usize,
    /// Programs that publish.
    pub publishers: usize,
    /// Events to publish.
    pub events: usize,
    /// Keys to choose from.
    pub keys: usize,
    /// Of a hundred events, how many are of the first key.
    pub hot: u64,
    /// How they are published.
    pub publishing: Publishing,
    /// The pause between two publishes.
    pub pace: Duration,
    /// Handlers at once.
    pub concurrency: usize,
    /// Deliveries above a settled offset.
    pub window: usize,
    /// Attempts at one delivery.
    pub attempts: u32,
    /// The first delay between attempts.
    pub initial: Duration,
    /// The longest.
    pub cap: Duration,
    /// What happens then.
    pub on_failure: OnFailure,
    /// How long a failing key is held before it is set aside without evidence that others succeed.
    pub hold_at_most: Duration,
    /// Whether an operator releases every parked key when all faults are over.
    pub release: bool,
    /// How long a process may drain.
    pub drain: Duration,
    /// The faults, in order.
    pub faults: Vec<Scheduled>,
    /// What a storm of the log is like.
    pub log_storm: Chances,
    /// What a storm of the database is like.
    pub database_storm: Chances,
    /// Dice for what the case derives by itself.
    pub dice: Dice,
}

impl Plan {
    /// The run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let processes = dice.count(1..=3);
        let quiet = dice.percent(10);
        let storm = |dice: &mut Dice| Chances {
            refused: u32::try_from(dice.between(0..=250)).unwrap_or(0),
            request_lost: u32::try_from(dice.between(0..=100)).unwrap_or(0),
            answer_lost: u32::try_from(dice.between(0..=150)).unwrap_or(0),
            late: u32::try_from(dice.between(0..=500)).unwrap_or(0),
            latest: dice.millis(1..=800),
        };
        let initial = dice.millis(5..=200);
        let mut plan = Self {
            seed,
            partitions: i32::try_from(dice.between(1..=5)).unwrap_or(1),
            processes,
            publishers: dice.count(1..=2),
            events: dice.count(10..=200),
            keys: dice.count(1..=12),
            hot: dice.pick(&[0, 0, 30, 80]),
            publishing: match dice.between(0..=2) {
                0 => Publishing::Awaited,
                1 => Publishing::Pipelined(dice.count(2..=20)),
                _ => Publishing::Batched(dice.count(2..=30)),
            },
            pace: dice.millis(0..=150),
            concurrency: dice.pick(&[1, 2, 4, 16, 64]),
            window: dice.pick(&[1, 2, 4, 8, 32, 256]),
            attempts: u32::try_from(dice.between(1..=5)).unwrap_or(1),
            initial,
            cap: initial * u32::try_from(dice.between(1..=10)).unwrap_or(1),
            on_failure: dice.pick(&[
                OnFailure::Park,
                OnFailure::Park,
                OnFailure::Park,
                OnFailure::DeadLetter,
                OnFailure::Stop,
            ]),
            hold_at_most: dice.millis(500..=20_000),
            release: dice.percent(60),
            drain: dice.millis(100..=4_000),
            faults: Vec::new(),
            log_storm: storm(&mut dice),
            database_storm: storm(&mut dice),
            dice: dice.fork(),
        };
        let faults = if quiet { 0 } else { dice.count(1..=6) };
        for _ in 0..faults {
            let fault = dice.pick(&Fault::ALL);
            let lasts = match fault {
                Fault::Expire | Fault::Lose | Fault::Drain | Fault::DeadClient | Fault::Release => {
                    Duration::ZERO
                }
                _ => dice.millis(50..=4_000),
            };
            let at = dice.millis(50..=12_000);
            plan.faults.push(Scheduled { at, fault, process: dice.count(0..=processes - 1), lasts });
        }
        plan.faults.sort_by_key(|fault| fault.at);
        plan
    }

    /// A subscription with the options of this run; `subscription` has the handlers.
    #[must_use]
    pub fn apply<S: Send + Sync + 'static>(&self, subscription: Subscription<S>) -> Subscription<S> {
        let retry = Retry::exponential().attempts(self.attempts).initial(self.initial).cap(self.cap);
        subscription
            .concurrency(self.concurrency)
            .window(self.window)
            .retry(retry)
            .then(self.on_failure)
            .hold_at_most(self.hold_at_most)
    }

    /// A key: the first one more often where one is hot.
    pub fn key(&self, dice: &mut Dice) -> usize {
        if dice.percent(self.hot) { 0 } else { dice.count(0..=self.keys - 1) }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "  partitions {}, processes {}", self.partitions, self.processes)?;
        writeln!(
            f,
            "  publishers {}, events {}, keys {}, hot {} %, {:?}, pace {:?}",
            self.publishers, self.events, self.keys, self.hot, self.publishing, self.pace
        )?;
        writeln!(
            f,
            "  concurrency {}, window {}, attempts {} from {:?} to {:?}, then {:?}, hold {:?}, release {}, drain {:?}",
            self.concurrency,
            self.window,
            self.attempts,
            self.initial,
            self.cap,
            self.on_failure,
            self.hold_at_most,
            self.release,
            self.drain
        )?;
        writeln!(f, "  log storm {:?}", self.log_storm)?;
        writeln!(f, "  database storm {:?}", self.database_storm)?;
        for Scheduled { at, fault, process, lasts } in &self.faults {
            writeln!(f, "  at {at:?}: {} of process {process} for {lasts:?}", fault.name())?;
        }
        Ok(())
    }
}
