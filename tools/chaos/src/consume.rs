//! The consumer: the production app with one subscription, whose handlers tell when they start and end.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct::{
    App, Bus, Config, Database, Delivery, Draft, EventId, Handled, Retry, Sqlite, State, Status,
    Subscription, Terminal, Tx,
    config::{Drain, Format, Level, Logs},
    core::{LogError, LogErrorKind, log::Position},
};
use checker::{Finished, Observation, Stalled};
use clap::{Args, ValueEnum};

use crate::{
    event::{ECHOES, Echoed, Effect, MOVES, Mirrored, Moved, hash},
    sink::Sink,
    spy::{Spy, Watch, place, shard},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Handles moves in a transaction: an effect row each, and a staged echo.
    Ledger,
    /// Handles moves and echoes without a database.
    Audit,
    /// Handles moves from topic to topic, exactly once.
    Mirror,
}

impl Role {
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Audit => "audit",
            Self::Mirror => "mirror",
        }
    }

    pub(crate) fn topics(self) -> &'static [&'static str] {
        match self {
            Self::Ledger | Self::Mirror => &[MOVES],
            Self::Audit => &[MOVES, ECHOES],
        }
    }
}

/// Deliveries of a partition above its settled offset, at most: also what the checker allows as a rewind.
pub(crate) const WINDOW: usize = 256;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log's URL.
    #[arg(long)]
    log: String,
    /// The folder of observations.
    #[arg(long)]
    out: PathBuf,
    /// The name of this process, its start included, such as `ledger-1.7`.
    #[arg(long)]
    by: String,
    #[arg(long)]
    role: Role,
    /// The service's database; needed by the ledger.
    #[arg(long)]
    database: Option<PathBuf>,
    /// While this file exists, what fails for ever does not.
    #[arg(long)]
    healed: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    drain_ms: u64,
    /// Of 1,000 deliveries, how many sleep.
    #[arg(long, default_value_t = 5)]
    slow: u64,
    /// How long they sleep, at most.
    #[arg(long, default_value_t = 50)]
    slow_ms: u64,
    /// Of 100,000 deliveries, how many fail for ever.
    #[arg(long, default_value_t = 0)]
    poison: u64,
}

/// What becomes of an attempt at an event: by its id, its key and the attempt.
pub(crate) type Fates = Arc<dyn Fn(&str, &str, u32) -> Fate + Send + Sync>;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) watch: Arc<Watch>,
    pub(crate) group: Arc<str>,
    pub(crate) fates: Fates,
}

/// What shall become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Sleeps(Duration),
    Fails,
    Panics,
    Terminal,
}

/// Fates that follow from the event's id, so that every process and every attempt agrees.
fn fates(options: &Options, healed: &Arc<AtomicBool>) -> Fates {
    let (slow, slow_ms, poison) = (options.slow, options.slow_ms.max(1), options.poison);
    let healed = Arc::clone(healed);
    Arc::new(move |id, _, attempt| {
        let number = hash(id) >> 8;
        let one_in = |salt: u64, of: u64| number.wrapping_mul(salt | 1).rotate_left(17) % of;
        let ill = !healed.load(Ordering::Acquire);
        if ill && one_in(0x51, 100_000) < poison {
            Fate::Fails
        } else if ill && one_in(0x3_789b, 100_000) < poison / 4 {
            Fate::Terminal
        } else if one_in(0x1_2345, 50) == 0 && attempt == 1 {
            Fate::Fails
        } else if one_in(0x2_4567, 400) == 0 && attempt <= 2 {
            Fate::Panics
        } else if one_in(0x4_9abd, 1_000) < slow {
            Fate::Sleeps(Duration::from_millis(1 + one_in(0x5_bcdf, slow_ms)))
        } else {
            Fate::Done
        }
    })
}

impl Work {
    fn start(&self, position: &Position, id: &str, key: &str, attempt: u32) -> Run {
        let (run, generation) = (self.watch.run(), self.watch.generation(&self.group, &position.partition));
        self.watch.see(Observation::Start {
            run,
            group: (*self.group).to_owned(),
            place: place(position),
            generation,
            id: id.to_owned(),
            key: Some(key.to_owned()),
            attempt,
            released: false,
        });
        Run { watch: Arc::clone(&self.watch), run, generation, ended: false }
    }

    /// Does what the fate says; the run goes on where it returns `Ok`.
    async fn suffer(
        &self,
        run: Run,
        id: &str,
        key: &str,
        attempt: u32,
    ) -> Result<Run, aqueduct::HandlerError> {
        match (self.fates)(id, key, attempt) {
            Fate::Done => Ok(run),
            Fate::Sleeps(time) => {
                tokio::time::sleep(time).await;
                Ok(run)
            }
            Fate::Fails => {
                run.end(Finished::Failed);
                Err("it fails, by its fate".into())
            }
            Fate::Terminal => {
                run.end(Finished::Failed);
                Err(Terminal::new("it fails for good, by its fate").into())
            }
            // The unwinding tells that it failed.
            Fate::Panics => std::panic::panic_any("it panics, by its fate"),
        }
    }
}

/// One run of a handler: it tells how it ended, when it is dropped too.
#[derive(Debug)]
pub(crate) struct Run {
    watch: Arc<Watch>,
    run: u64,
    generation: i64,
    ended: bool,
}

impl Run {
    pub(crate) fn end(mut self, outcome: Finished) {
        self.ended = true;
        self.watch.see(Observation::Finish { run: self.run, outcome });
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            let outcome = if std::thread::panicking() { Finished::Failed } else { Finished::Cancelled };
            self.watch.see(Observation::Finish { run: self.run, outcome });
        }
    }
}

/// The table of effects; nothing in it forbids a second one, so that it would show.
pub(crate) const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS effect (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, consumer_group TEXT NOT NULL, id TEXT NOT NULL, topic TEXT NOT NULL,
    partition INTEGER NOT NULL, source_offset INTEGER NOT NULL, generation INTEGER NOT NULL, stages TEXT) STRICT";

async fn ledger(delivery: Delivery<Moved>, State(work): State<Work>, tx: Tx<Sqlite>) -> Handled<Draft> {
    let Delivery { event, position, attempt, .. } = delivery;
    let run = work.start(&position, &event.id, &event.key, attempt);
    let run = work.suffer(run, &event.id, &event.key, attempt).await?;
    let echo = Echoed::id_of(&event.id);
    let partition = &position.partition;
    tx.execute(
        "INSERT INTO effect (consumer_group, id, topic, partition, source_offset, generation, stages)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            &*work.group,
            &event.id,
            partition.topic.as_str(),
            partition.partition,
            position.offset,
            run.generation,
            &echo,
        ),
    )?;
    let draft = Draft::of(&Echoed { of: event.id, key: event.key })?.id(EventId::parse(&echo));
    run.end(Finished::Done);
    Ok(draft)
}

async fn audit_move(delivery: Delivery<Moved>, State(work): State<Work>) -> Handled {
    let Delivery { event, position, attempt, .. } = delivery;
    let run = work.start(&position, &event.id, &event.key, attempt);
    let run = work.suffer(run, &event.id, &event.key, attempt).await?;
    run.end(Finished::Done);
    Ok(())
}

async fn audit_echo(delivery: Delivery<Echoed>, State(work): State<Work>) -> Handled {
    let Delivery { event, position, attempt, .. } = delivery;
    let id = Echoed::id_of(&event.of);
    let run = work.start(&position, &id, &event.key, attempt);
    let run = work.suffer(run, &id, &event.key, attempt).await?;
    run.end(Finished::Done);
    Ok(())
}

async fn mirror(delivery: Delivery<Moved>, State(work): State<Work>) -> Handled<Mirrored> {
    let Delivery { event, position, attempt, .. } = delivery;
    let run = work.start(&position, &event.id, &event.key, attempt);
    let run = work.suffer(run, &event.id, &event.key, attempt).await?;
    let effect = Effect {
        group: (*work.group).to_owned(),
        id: event.id,
        topic: position.partition.topic.to_string(),
        partition: position.partition.partition,
        offset: position.offset,
        generation: run.generation,
    };
    run.end(Finished::Done);
    Ok(Mirrored { key: event.key, effect })
}

/// Opens the log as a service that its supervisor starts again would: where it cannot be reached now, because a stopped
/// process holds its lock, later.
pub(crate) async fn patiently<T>(open: impl AsyncFn() -> Result<T, LogError>) -> Result<T, LogError> {
    for _ in 0..10 {
        match open().await {
            Err(error) if error.kind() == LogErrorKind::Unreachable => eprintln!("trying again: {error}"),
            opened => return opened,
        }
    }
    open().await
}

/// The subscription of a role, under the name of a group.
pub(crate) fn subscription(role: Role, group: &str) -> Subscription<Work> {
    let retry =
        Retry::exponential().attempts(3).initial(Duration::from_millis(10)).cap(Duration::from_millis(200));
    let subscription = Subscription::builder(group).window(WINDOW).retry(retry);
    match role {
        Role::Ledger => subscription.on(ledger),
        Role::Audit => subscription.on(audit_move).on(audit_echo),
        Role::Mirror => subscription.on(mirror).exactly_once(),
    }
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let sink = Sink::file(&options.out.join(format!("{}.jsonl", options.by)), &options.by)?;
    aqueduct::logs::init(logs())?;
    // What a fate does is no news; the log has a line for each of our own defects.
    std::panic::set_hook(Box::new(|_| {}));
    let watch = Watch::new(sink);
    let environment = aqueduct::system_environment();
    let inner = patiently(async || aqueduct::connect_with(&options.log, environment.clone()).await).await?;
    let bus = Bus::open(Spy::on(Arc::clone(inner.log()), &watch), environment).await?;
    let healed = Arc::new(AtomicBool::new(options.healed.exists()));
    let work = Work {
        watch: Arc::clone(&watch),
        group: options.role.group().into(),
        fates: fates(&options, &healed),
    };
    let mut config = Config::default();
    config.drain = drain(options.drain_ms);
    let mut app = App::builder(options.role.group()).log(&bus).state(work).config(config);
    let database = match &options.database {
        Some(path) => Some(Database::open(path, SCHEMA).await?),
        None => None,
    };
    if let Some(database) = &database {
        app = app.database(database);
    }
    if options.role == Role::Mirror {
        app = app.topic::<Mirrored>(|topic| topic);
    }
    let app = app.subscribe(subscription(options.role, options.role.group())).build()?;
    let told = tokio::spawn(tell(app.status(), watch, healed, options.healed.clone()));
    let result = app.run(aqueduct::shutdown_signal()).await;
    told.abort();
    if let Some(database) = database {
        database.close().await;
    }
    bus.log().close().await?;
    Ok(result?)
}

fn logs() -> Logs {
    let mut logs = Logs::default();
    (logs.level, logs.format) = (Level::Warn, Format::Json);
    logs
}

pub(crate) fn drain(millis: u64) -> Drain {
    let mut drain = Drain::default();
    drain.deadline = Duration::from_millis(millis);
    drain
}

/// Tells once a second whether the app is ready, and looks whether all is healed.
async fn tell(status: Status, watch: Arc<Watch>, healed: Arc<AtomicBool>, file: PathBuf) {
    for beat in 0_u64.. {
        healed.store(Path::exists(&file), Ordering::Release);
        if beat % 5 == 0 {
            watch.see(readiness(&status));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What an app says of itself.
pub(crate) fn readiness(status: &Status) -> Observation {
    let mut stalls = Vec::new();
    for subscription in status.subscriptions() {
        let group = || subscription.name.clone();
        if subscription.client.is_some() {
            stalls.push(Stalled { group: group(), shard: None, kind: "client".to_owned() });
        }
        for (id, partition) in &subscription.partitions {
            if let Some(stall) = &partition.stall {
                let (shard, kind) = (Some(shard(id)), format!("{:?}", stall.kind).to_lowercase());
                stalls.push(Stalled { group: group(), shard, kind });
            }
        }
    }
    Observation::Ready { ready: status.readiness().ready, stalls }
}
