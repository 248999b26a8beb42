//! One run: the production app in several processes on one thread, virtual time, the scripted log, faults, healing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use aqueduct_app::{App, AppError, Config, Status};
use aqueduct_core::{
    BoxError, Environment, TopicName,
    log::{CommitLog, PartitionId, TopicSpec},
};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::Bus;
use tokio::{task::JoinHandle, time::sleep_until};
use tokio_util::sync::CancellationToken;

mod heal;
mod inject;

use super::{
    case::Case,
    clock::VirtualClock,
    database::{Database, Stored},
    dice::{Dice, SharedDice},
    observer::Seen,
    plan::{Plan, Scheduled},
    process::Process,
    publisher::{self, Publisher},
    watched::Watched,
    world::{Summary, World},
};

/// How often the run is looked at: settled offsets, status, who has ended.
const LOOK: Duration = Duration::from_millis(200);

/// After this long a process that was killed or gave up starts again.
const RESTART: Duration = Duration::from_millis(300);

/// How much longer than its deadline a drain may take where a fault is open: it waits for the last settling.
const DRAIN_SLACK: Duration = Duration::from_millis(2_500);

/// Why a run failed.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What went wrong.
    pub why: String,
    /// Every option of the run.
    pub plan: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.why, self.plan)
    }
}

/// Runs a case, and says what was left, or why it failed.
///
/// # Errors
/// Something was not settled in time, an invariant does not hold, or a process could not be started.
pub fn run<S: Clone + Send + Sync + 'static>(plan: &Plan, case: &Case<S>) -> Result<World, Failure> {
    let failure =
        |error: BoxError| Failure { seed: plan.seed, why: error.to_string(), plan: plan.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| failure(error.into()))?;
    let world = runtime.block_on(async {
        let mut run = Run::new(plan, case).await?;
        run.go().await
    });
    let world = world.map_err(failure)?;
    (case.finally)(&world).map_err(failure)?;
    Ok(world)
}

/// A process that is to be there, and its incarnation that is there.
struct Seat {
    number: usize,
    incarnation: u32,
    running: Option<Running>,
}

struct Running {
    process: Arc<Process>,
    stop: CancellationToken,
    status: Status,
    task: JoinHandle<Result<(), AppError>>,
    /// Since when it drains.
    draining: Option<Duration>,
}

/// Something that happens at a moment of the run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(Scheduled),
    End(Scheduled, u64),
    Start(usize),
    Over(u64),
}

struct Run<'a, S> {
    plan: &'a Plan,
    case: &'a Case<S>,
    clock: VirtualClock,
    log: MemoryLog,
    stored: Arc<Stored>,
    /// Who looks at parked keys, and releases them.
    operator: Bus,
    dice: Dice,
    seats: Vec<Seat>,
    steps: BTreeMap<(Duration, u64), Step>,
    last_step: u64,
    last_fault: u64,
    group: Arc<str>,
    topics: Vec<TopicName>,
    summary: Summary,
}

impl<'a, S: Clone + Send + Sync + 'static> Run<'a, S> {
    async fn new(plan: &'a Plan, case: &'a Case<S>) -> Result<Self, BoxError> {
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        let log = MemoryLog::seeded(plan.partitions, plan.seed);
        log.keep_journal();
        let stored = Stored::new(dice.fork());
        let group: Arc<str> = (case.subscribe)(plan).name().into();
        let clock = VirtualClock::start();
        let environment = Environment::new(clock, SharedDice::new(dice.fork()));
        let operator = Bus::open(Arc::new(log.process()), environment).await?.with_source("operator");
        let mut run = Self {
            plan,
            case,
            clock,
            log,
            stored,
            operator,
            dice,
            seats: Vec::new(),
            steps: BTreeMap::new(),
            last_step: 0,
            last_fault: 0,
            group,
            topics: Vec::new(),
            summary: Summary::default(),
        };
        let mut topics = BTreeSet::new();
        for draft in &case.events {
            topics.insert(TopicName::new(draft.info().topic)?);
        }
        for topic in topics {
            run.log.ensure_topic(TopicSpec::new(topic.clone())).await?;
            run.topics.push(topic);
        }
        for fault in &plan.faults {
            run.after(fault.at, Step::Begin(*fault));
        }
        Ok(run)
    }

    async fn go(&mut self) -> Result<World, BoxError> {
        for number in 0..self.plan.processes {
            self.seats.push(Seat { number, incarnation: 0, running: None });
            self.start(number).await?;
        }
        let mut publishers = self.publishers().await?;
        let mut rejected = 0;
        loop {
            self.step().await?;
            while let Some(publisher) = publishers.pop() {
                if !publisher.is_finished() {
                    publishers.push(publisher);
                    break;
                }
                rejected += publisher.await?;
            }
            if publishers.is_empty() && self.steps.is_empty() {
                break;
            }
        }
        self.heal().await?;
        self.until_settled().await?;
        let parked = self.release_all().await?;
        self.end_all().await?;
        self.count_calls();
        let took = self.clock.elapsed();
        self.summary.virtual_millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let summary = std::mem::take(&mut self.summary);
        Ok(World::read(self.plan, &self.log, &self.stored, rejected, parked, summary)?)
    }

    fn after(&mut self, at: Duration, step: Step) {
        self.last_step += 1;
        self.steps.insert((at, self.last_step), step);
    }

    fn environment(&mut self) -> Environment {
        Environment::new(self.clock, SharedDice::new(self.dice.fork()))
    }

    fn saw(&self, seen: Seen<'_>) {
        self.case.observer.saw(self.clock.elapsed(), "run", seen);
    }

    async fn publishers(&mut self) -> Result<Vec<JoinHandle<usize>>, BoxError> {
        let calls = Arc::new(AtomicU64::new(0));
        let environment = self.environment();
        let dealt = publisher::deal(self.case.events.clone(), self.plan.publishers, &environment);
        let mut tasks = Vec::new();
        for (number, events) in dealt.into_iter().enumerate() {
            let process = self.process(format!("publisher-{number}.1"), number);
            let watched = Watched { process: Arc::clone(&process), group: Arc::clone(&self.group) };
            let bus = Bus::open(Arc::new(watched), self.environment()).await?.with_source("publisher");
            let (publishing, pace) = (self.plan.publishing, self.plan.pace);
            let publisher = Publisher { process, bus, publishing, pace, calls: Arc::clone(&calls) };
            tasks.push(tokio::spawn(publisher.run(events)));
        }
        Ok(tasks)
    }

    fn process(&self, name: String, number: usize) -> Arc<Process> {
        let observer = Arc::clone(&self.case.observer);
        Process::new(name, number, self.log.process(), self.clock, observer)
    }

    async fn start(&mut self, number: usize) -> Result<(), BoxError> {
        let seat = &mut self.seats[number];
        if seat.running.is_some() {
            return Ok(());
        }
        seat.incarnation += 1;
        let name = format!("app-{}.{}", seat.number, seat.incarnation);
        let process = self.process(name, number);
        let watched = Watched { process: Arc::clone(&process), group: Arc::clone(&self.group) };
        let bus = Bus::open(Arc::new(watched), self.environment()).await?;
        let subscription = (self.case.subscribe)(self.plan);
        let mut config = Config::default();
        config.drain.deadline = self.plan.drain;
        let mut app = App::builder("simulated")
            .log(&bus)
            .state((self.case.state)(&process))
            .config(config)
            .subscribe(subscription);
        if self.case.database {
            app = app.database(&Database { stored: Arc::clone(&self.stored), process: Arc::clone(&process) });
        }
        let app = app.build()?;
        let (status, stop) = (app.status(), CancellationToken::new());
        for topic in status.subscriptions().into_iter().flat_map(|subscription| subscription.topics) {
            let topic = TopicName::new(&topic)?;
            if !self.topics.contains(&topic) {
                self.topics.push(topic);
            }
        }
        let task = tokio::spawn(app.run(stop.clone().cancelled_owned()));
        self.seats[number].running = Some(Running { process, stop, status, task, draining: None });
        Ok(())
    }

    /// Runs until the next thing that happens, or the next look.
    async fn step(&mut self) -> Result<(), BoxError> {
        let look = self.clock.elapsed() + LOOK;
        let due = self.steps.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= look);
        sleep_until(self.clock.at(due.unwrap_or(look))).await;
        while let Some(entry) = self.steps.first_entry()
            && entry.key().0 <= self.clock.elapsed()
        {
            let step = entry.remove();
            self.take(step).await?;
        }
        self.look().await
    }

    async fn take(&mut self, step: Step) -> Result<(), BoxError> {
        match step {
            Step::Begin(scheduled) => self.begin(scheduled).await?,
            Step::End(scheduled, number) => {
                self.end(scheduled);
                // What it has caused takes a while to be over: a session, a back-off, a redelivery.
                self.after(self.clock.elapsed() + Duration::from_secs(2), Step::Over(number));
            }
            Step::Over(number) => self.saw(Seen::Healed { number }),
            Step::Start(number) => self.start(number).await?,
        }
        Ok(())
    }

    fn drain(&mut self, number: usize) {
        let now = self.clock.elapsed();
        if let Some(running) =
            self.seats[number].running.as_mut().filter(|running| running.draining.is_none())
        {
            running.draining = Some(now);
            running.process.saw(Seen::Draining { deadline: self.plan.drain });
            running.stop.cancel();
        }
    }

    /// Samples what an outside observer can see, and starts again who has ended.
    async fn look(&mut self) -> Result<(), BoxError> {
        for topic in &self.topics {
            let ends = self.log.end_offsets(topic).await?;
            let settled = self.log.settled_offsets(&self.group, topic).await?;
            for ((number, end), settled) in (0..).zip(ends).zip(settled) {
                let offset = settled.map(|settled| settled.offset);
                let partition = PartitionId { topic: topic.clone(), partition: number };
                let group = &*self.group;
                self.saw(Seen::Settled { group, partition: &partition, offset, end });
            }
        }
        for number in 0..self.seats.len() {
            let Some(running) = &self.seats[number].running else { continue };
            if !running.task.is_finished() {
                running.process.saw(Seen::Status(&running.status));
                self.check_drain(number)?;
                continue;
            }
            let Some(running) = self.seats[number].running.take() else { continue };
            let ended = running.task.await?;
            if running.draining.is_some() {
                running.process.saw(Seen::Drained);
            } else {
                let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                self.summary.gave_up.push(format!(
                    "seed {}: {}: {why}",
                    self.plan.seed,
                    running.process.name()
                ));
                let fault = self.open_fault("gave-up");
                self.after(self.clock.elapsed() + Duration::from_secs(2), Step::Over(fault));
            }
            running.process.kill();
            self.after(self.clock.elapsed() + RESTART, Step::Start(number));
        }
        Ok(())
    }

    fn check_drain(&self, number: usize) -> Result<(), BoxError> {
        let Some(running) = &self.seats[number].running else { return Ok(()) };
        let Some(since) = running.draining.filter(|_| !running.process.is_paused()) else { return Ok(()) };
        let took = self.clock.elapsed().saturating_sub(since);
        if took > self.plan.drain + DRAIN_SLACK {
            let (name, deadline) = (running.process.name(), self.plan.drain);
            return Err(format!("{name} drains for {took:?} already, its deadline was {deadline:?}").into());
        }
        Ok(())
    }

    fn count_calls(&mut self) {
        let (log, database) = (self.log.faults().counts(), self.stored.counts());
        for (kind, count) in [
            ("log refused", log.refused),
            ("log request lost", log.requests_lost),
            ("log answer lost", log.answers_lost),
            ("log late", log.late),
            ("topic outage", log.outages),
            ("database refused", database.refused),
            ("database request lost", database.requests_lost),
            ("database answer lost", database.answers_lost),
            ("database late", database.late),
            ("database outage", database.outages),
        ] {
            *self.summary.faults.entry(kind).or_default() += count;
        }
    }
}
