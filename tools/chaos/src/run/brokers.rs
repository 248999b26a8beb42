//! What is done to brokers and to the connections to them.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    cluster::Cluster,
    proxy::{APIS, Proxy},
    stage::Stage,
};
use crate::{event::MOVES, random::Random};

/// How long the traces of a dropped response or a cut connection may last: the client connects again and asks again.
const NETWORK: Duration = Duration::from_secs(5);
/// How long the response of one API is waited for; then that of another will do; and then none.
const INSTEAD: Duration = Duration::from_millis(700);
const WANTED: Duration = Duration::from_secs(3);
/// How often is looked whether all replicas have caught up. No broker is harmed before: two away are an outage of the
/// cluster by its own settings, and nothing of ours is tried by it.
const LOOK: Duration = Duration::from_secs(1);

/// The brokers, harmed one at a time, and the proxy before them.
pub(crate) struct Brokers {
    proxy: Proxy,
    ids: Vec<u16>,
    /// What is being done, and what comes then.
    doing: Option<Doing>,
    /// Which harm is next.
    turn: u64,
    /// How long the traces of what is done to a broker may last.
    after: Duration,
    heals: Vec<(Instant, u64)>,
    silences: Vec<(Instant, usize, u64)>,
    /// Since when a response is wanted that can be dropped.
    wanted: Option<Instant>,
}

enum Doing {
    /// Dead until then.
    Dead(u64, u16, Instant),
    /// Stopped until then.
    Stopped(u64, u16, Instant),
    /// A command that runs, and the brokers that are restarted after it.
    Commanded(u64, Child, Vec<u16>),
    /// Replicas that catch up, looked at then, and the brokers that are restarted after it.
    CatchesUp(u64, Instant, Vec<u16>),
}

impl Brokers {
    pub(crate) fn new(cluster: &Cluster, after: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            proxy: Proxy::start(&cluster.brokers)?,
            ids: cluster.brokers.iter().map(|broker| broker.id).collect(),
            doing: None,
            turn: 0,
            after,
            heals: Vec::new(),
            silences: Vec::new(),
            wanted: None,
        })
    }

    /// Does what is due. True where nothing is open any more.
    pub(crate) fn go(&mut self, stage: &mut Stage) -> anyhow::Result<bool> {
        let now = Instant::now();
        for api in self.proxy.dropped() {
            let name = APIS.iter().find(|(number, _)| *number == api).map_or("", |(_, name)| name);
            let fault = stage.fault("dropped response", name);
            self.heals.push((now + NETWORK, fault));
            self.wanted = None;
        }
        for (_, fault) in self.heals.extract_if(.., |(at, _)| *at <= now) {
            stage.healed(fault);
        }
        for (_, index, fault) in self.silences.extract_if(.., |(at, ..)| *at <= now) {
            self.proxy.silence(index, false);
            self.heals.push((now + self.after, fault));
        }
        match self.wanted.map(|since| now - since) {
            Some(waited) if waited > WANTED => self.calm(),
            Some(waited) if waited > INSTEAD => self.proxy.drop_any(),
            _ => {}
        }
        self.doing = match self.doing.take() {
            Some(Doing::Dead(fault, id, until)) if until <= now => {
                let restart = cluster(stage)?.begin(&format!("restart {id}"))?;
                Some(Doing::Commanded(fault, restart, Vec::new()))
            }
            Some(Doing::Stopped(fault, id, until)) if until <= now => {
                cluster(stage)?.tell(&format!("resume {id}"))?;
                Some(Doing::CatchesUp(fault, now + LOOK, Vec::new()))
            }
            Some(Doing::Commanded(fault, mut command, left)) => match command.try_wait()? {
                None => Some(Doing::Commanded(fault, command, left)),
                Some(status) => {
                    ensure!(status.success(), "the command of fault {fault} failed: {status}");
                    Some(Doing::CatchesUp(fault, now + LOOK, left))
                }
            },
            Some(Doing::CatchesUp(fault, at, mut left)) if at <= now => {
                // Where brokers do not say, they are not there.
                if stage.behind().ok() != Some(0) {
                    Some(Doing::CatchesUp(fault, now + LOOK, left))
                } else if let Some(next) = left.pop() {
                    let restart = cluster(stage)?.begin(&format!("restart {next}"))?;
                    Some(Doing::Commanded(fault, restart, left))
                } else {
                    self.heals.push((now + self.after, fault));
                    None
                }
            }
            doing => doing,
        };
        Ok(self.doing.is_none() && self.heals.is_empty() && self.silences.is_empty())
    }

    /// Harms a broker, in turns: every kind comes to its own. Nothing, where one is harmed already.
    pub(crate) fn harm(&mut self, stage: &mut Stage, random: &mut Random) -> anyhow::Result<()> {
        if self.doing.is_some() {
            return Ok(());
        }
        let at = self.any(random)?;
        let id = self.ids[at];
        self.turn += 1;
        self.doing = Some(match self.turn % 8 {
            0 => {
                let fault = stage.fault("rolling restart", "all");
                let mut order: Vec<_> = self.ids[at..].iter().chain(&self.ids[..at]).copied().collect();
                let first = order.pop().context("a cluster without brokers")?;
                Doing::Commanded(fault, cluster(stage)?.begin(&format!("restart {first}"))?, order)
            }
            2 => {
                let fault = stage.fault("broker pause", &id.to_string());
                cluster(stage)?.tell(&format!("pause {id}"))?;
                Doing::Stopped(fault, id, Instant::now() + random.millis(3_000, 14_000))
            }
            6 => {
                let fault = stage.fault("leader move", MOVES);
                Doing::Commanded(fault, cluster(stage)?.begin(&format!("move-leader {MOVES}"))?, Vec::new())
            }
            _ => {
                let fault = stage.fault("broker kill", &id.to_string());
                cluster(stage)?.tell(&format!("kill {id}"))?;
                Doing::Dead(fault, id, Instant::now() + random.millis(500, 5_000))
            }
        });
        Ok(())
    }

    /// Harms connections.
    pub(crate) fn disturb(&mut self, stage: &mut Stage, random: &mut Random) -> anyhow::Result<()> {
        let index = self.any(random)?;
        match random.below(8) {
            0 => {
                let fault = stage.fault("cut", &self.ids[index].to_string());
                self.proxy.cut(index, random);
                self.heals.push((Instant::now() + NETWORK, fault));
            }
            1 if self.silences.is_empty() => {
                let fault = stage.fault("silence", &self.ids[index].to_string());
                self.proxy.silence(index, true);
                self.silences.push((Instant::now() + random.millis(300, 9_000), index, fault));
            }
            _ if self.wanted.is_none() => {
                let (api, _) = APIS[usize::try_from(random.below(u64::try_from(APIS.len())?))?];
                self.proxy.drop_next(api);
                self.wanted = Some(Instant::now());
            }
            _ => {}
        }
        Ok(())
    }

    fn any(&self, random: &mut Random) -> anyhow::Result<usize> {
        Ok(usize::try_from(random.below(u64::try_from(self.ids.len())?))?)
    }

    /// Nothing more is dropped.
    pub(crate) fn calm(&mut self) {
        self.proxy.drop_none();
        self.wanted = None;
    }
}

fn cluster(stage: &Stage) -> anyhow::Result<&Cluster> {
    stage.cluster.as_ref().context("the log is no cluster")
}
