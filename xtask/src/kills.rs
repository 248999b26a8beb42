//! The shop under `kill -9`: it is killed at random moments, started again, and at the end the independent program
//! compares its report, its databases and its log with what the data fixes. On Kafka several processes of each service
//! share its database and its group, and any of them is killed.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    kafka,
    run::{self, Built, command, step},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The sales; without it, the sample.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// On a broker of its own, with two more processes of each service.
    #[arg(long)]
    pub(crate) kafka: bool,
    /// How often to kill.
    #[arg(long, default_value_t = 20)]
    pub(crate) kills: u32,
    /// The longest time between a start and its kill, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) within: u64,
    /// The seed of the moments; without it a new one is taken and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where the log and the databases are kept; emptied first.
    #[arg(long, default_value = "target/kills")]
    pub(crate) state: PathBuf,
    #[arg(skip)]
    pub(crate) built: Built,
}

/// How long it may take once nobody is killed any more.
const LAST_RUN: Duration = Duration::from_secs(900);

/// How long a service may take to end that was asked to.
const END: Duration = Duration::from_secs(30);

/// Processes of each service on Kafka, beside the one in the shop's own.
const INSTANCES: usize = 2;

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let built = run::killed(options.built)?;
    if !options.kafka {
        return play(options, &[Player::shop(&built.join("shop"), None)], None);
    }
    kafka::with_broker(false, |cluster| {
        let url = cluster.url();
        let mut players = vec![Player::shop(&built.join("shop"), Some(&url))];
        for service in ["inventory", "recommendation"] {
            players.extend((0..INSTANCES).map(|_| Player::service(&built.join(service), service, &url)));
        }
        let mut observer = Command::new(built.join("kafka-observer"));
        observer.arg(url.trim_start_matches("kafka://")).arg("save");
        play(options, &players, Some(observer))
    })
}

/// A process that is started again and again.
struct Player {
    program: PathBuf,
    /// The service whose database it shares; without it, the shop.
    service: Option<&'static str>,
    url: Option<String>,
}

impl Player {
    fn shop(program: &Path, url: Option<&str>) -> Self {
        Self { program: program.to_owned(), service: None, url: url.map(str::to_owned) }
    }

    fn service(program: &Path, service: &'static str, url: &str) -> Self {
        Self { program: program.to_owned(), service: Some(service), url: Some(url.to_owned()) }
    }

    fn start(&self, data: &Path, state: &Path) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(["--listen", "127.0.0.1:0"]);
        match self.service {
            None => {
                command.args(["--speed", "max", "--until-end"]).arg("--data").arg(data);
                command.arg("--state").arg(state).arg("--report").arg(state.join(REPORT));
            }
            Some(service) => {
                command.arg("--database").arg(state.join(format!("{service}.db")));
            }
        }
        if let Some(url) = &self.url {
            command.args(["--log", url]);
        }
        command
            .env("AQUEDUCT_LOGS_LEVEL", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}

/// Processes that are killed where this ends early.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended cannot be killed, and need not.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const REPORT: &str = "report.json";

/// Plays the sales with these players, of which the first is the shop, and kills one of them again and again; `save` puts
/// the log where the program that judges reads it.
fn play(options: &Options, players: &[Player], save: Option<Command>) -> anyhow::Result<()> {
    let state = run::root().join(&options.state);
    let data = match &options.data {
        Some(data) => std::path::absolute(data)?,
        None => run::root().join("services/shop/data/sample.csv.gz"),
    };
    empty(&state)?;
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut draw = |below: u64| {
        // xorshift64: enough to spread moments, and a seed repeats them.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below.max(1)
    };
    let started = players.iter().map(|player| player.start(&data, &state)).collect::<Result<_, _>>()?;
    let mut running = Running(started);
    for kill in 1..=options.kills {
        // From the first milliseconds on: opening and taking over are moments too.
        let moment = Duration::from_millis(draw(options.within));
        thread::sleep(moment);
        let index = usize::try_from(draw(u64::try_from(players.len())?))?;
        for (player, child) in players.iter().zip(&mut running.0) {
            if let Some(status) = child.try_wait()? {
                let name = player.service.unwrap_or("the shop");
                bail!(
                    "{name} ended before kill {kill} of {}: {status}; choose a shorter --within",
                    options.kills
                );
            }
        }
        let (player, child) = (&players[index], &mut running.0[index]);
        // On Unix this is SIGKILL.
        child.kill()?;
        child.wait()?;
        *child = player.start(&data, &state)?;
        println!("kill {kill}: {} after {} ms", player.service.unwrap_or("the shop"), moment.as_millis());
    }
    let started = Instant::now();
    let shop = running.0.first_mut().context("nobody plays")?;
    let status =
        wait(shop, LAST_RUN)?.with_context(|| format!("the shop did not end within {LAST_RUN:?}"))?;
    ensure!(status.success(), "the last run failed: {status}");
    println!("the last run took {:.1} s", started.elapsed().as_secs_f64());
    for (player, child) in players.iter().zip(&mut running.0).skip(1) {
        let name = player.service.unwrap_or_default();
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let status = wait(child, END)?.with_context(|| format!("{name} did not end within {END:?}"))?;
        ensure!(status.success(), "{name} ended with {status}");
    }
    if let Some(mut save) = save {
        step(save.arg(state.join("log.db")))?;
    }
    let check = "python3 -B tools/verify/verify.py check";
    step(command(check).arg(&data).arg(state.join(REPORT)).arg(&state))
}

/// How it ended, if it did within this time.
fn wait(child: &mut Child, within: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || started.elapsed() > within {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Only a folder of ours is emptied.
fn empty(state: &Path) -> anyhow::Result<()> {
    if state.exists() {
        let ours = ["log.db", "inventory.db"].iter().any(|file| state.join(file).exists());
        ensure!(
            ours || fs::read_dir(state)?.next().is_none(),
            "{} is not a state directory of the shop; it is left alone",
            state.display()
        );
        fs::remove_dir_all(state)?;
    }
    fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))
}
