//! `bench-kafka`: Aqueduct on Apache Kafka against raw loops on the same client library; what `cargo xtask bench kafka`
//! runs, with a broker of its own.

mod cluster;
mod consume;
mod idle;
mod latency;
mod peers;
mod publish;
mod raw;
mod relay;
mod transactions;

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use aqueduct::{RelayMode, system_environment};
use bench::{
    harness::{self, Row},
    machine::Machine,
};
use clap::Parser;
use cluster::Cluster;
use consume::{Consuming, Work};
use publish::{Against, Publishing};
use relay::Relaying;
use transactions::Transacting;

#[derive(Debug, Parser)]
struct Options {
    /// The cluster: kafka://HOST:PORT.
    #[arg(long, env = "AQUEDUCT_BENCH_KAFKA")]
    log: String,
    /// Only these rows; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// How many pairs of runs.
    #[arg(long, default_value_t = 6)]
    pairs: usize,
    /// A tenth of the events and 2 pairs: shows that it works, measures little.
    #[arg(long)]
    quick: bool,
    /// Where the relay's databases are written.
    #[arg(long, default_value = "target/bench-kafka")]
    dir: PathBuf,
    /// The program of `tools/bench-peers`, built: adds its rows.
    #[arg(long)]
    peers: Option<PathBuf>,
}

impl Options {
    fn events(&self, count: u64) -> u64 {
        if self.quick { count / 10 } else { count }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Makes one row.
type Make = fn(&'static str, &Options, &Arc<Cluster>) -> anyhow::Result<Box<dyn Row>>;

fn publishing(
    name: &'static str,
    options: &Options,
    cluster: &Arc<Cluster>,
    against: Against,
    bar: Option<f64>,
) -> anyhow::Result<Box<dyn Row>> {
    Ok(Box::new(Publishing::new(name, against, options.events(500_000), bar, cluster)?))
}

const ROWS: [(&str, Make); 10] = [
    ("publish-all", |name, options, cluster| {
        publishing(name, options, cluster, Against::Threaded, Some(0.95))
    }),
    ("publish-all-handle", |name, options, cluster| {
        publishing(name, options, cluster, Against::Handle, None)
    }),
    ("publish-64", |name, options, cluster| {
        publishing(name, options, cluster, Against::Waiting(64), Some(0.80))
    }),
    ("consume-inline", |name, options, cluster| {
        Ok(Box::new(Consuming::new(name, Work::Nothing, 1, options.events(500_000), Some(0.90), cluster)))
    }),
    ("consume-64", |name, options, cluster| {
        Ok(Box::new(Consuming::new(name, Work::Nothing, 64, options.events(500_000), Some(0.75), cluster)))
    }),
    ("sleep-64", |name, options, cluster| {
        Ok(Box::new(Consuming::new(name, Work::Sleep, 64, options.events(100_000), Some(0.95), cluster)))
    }),
    ("sleep-1024", |name, options, cluster| {
        Ok(Box::new(Consuming::new(name, Work::Sleep, 1_024, options.events(500_000), Some(0.95), cluster)))
    }),
    ("transactions", |name, options, cluster| {
        Ok(Box::new(Transacting::new(name, options.events(200_000), 0.90, cluster)?))
    }),
    ("relay", |name, options, cluster| {
        let (mode, count) = (RelayMode::AtLeastOnce, options.events(200_000));
        Ok(Box::new(Relaying::new(name, mode, count, Some(0.85), cluster, &options.dir)?))
    }),
    ("relay-exactly-once", |name, options, cluster| {
        let (mode, count) = (RelayMode::ExactlyOnce, options.events(200_000));
        Ok(Box::new(Relaying::new(name, mode, count, None, cluster, &options.dir)?))
    }),
];

/// The rows that are no pairs of runs.
const OTHERS: [&str; 3] = ["publish-1", "open-loop", "idle"];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let rows = || ROWS.iter().chain(options.peers.iter().flat_map(|_| &peers::ROWS));
    let names: Vec<_> = rows().map(|(name, _)| *name).chain(OTHERS).collect();
    for only in &options.only {
        let of_peers = peers::ROWS.iter().any(|(name, _)| name == only);
        ensure!(options.peers.is_some() || !of_peers, "{only} is a row of peers, and needs --peers");
        ensure!(names.contains(&only.as_str()), "there is no {only:?}; there are {}", names.join(", "));
    }
    fs::create_dir_all(&options.dir).with_context(|| format!("cannot make {}", options.dir.display()))?;
    let machine = Machine::look(&options.dir)?;
    println!(
        "commit {}, {}, librdkafka {}, Linux {}, {} x {}; the broker runs on the same processors",
        machine.commit,
        machine.rustc,
        rdkafka::util::get_rdkafka_version().1,
        machine.kernel,
        machine.processors,
        machine.processor,
    );
    let cluster = Cluster::new(&options.log, system_environment())?;
    let pairs = if options.quick { 2 } else { options.pairs };
    let mut missed = Vec::new();
    for &(name, make) in rows() {
        if options.wants(name) {
            let report = harness::compare(&mut *make(name, &options, &cluster)?, pairs)?;
            print!("{}", report.text());
            if report.met == Some(false) {
                missed.push(name);
            }
        }
    }
    for times in [
        options.wants("publish-1").then(|| latency::lone(&cluster)),
        options
            .wants("open-loop")
            .then(|| latency::open_loop(&cluster, if options.quick { 4_000 } else { 40_000 })),
    ] {
        if let Some(times) = times.transpose()? {
            print!("{times}");
            if !times.met() {
                missed.push(times.name());
            }
        }
    }
    if options.wants("idle") {
        let idle = idle::measure(&cluster, options.quick)?;
        print!("{idle}");
        if !idle.met() {
            missed.push("idle");
        }
    }
    if options.quick {
        println!("\nquick: figures of so few events mean little");
        return Ok(());
    }
    ensure!(missed.is_empty(), "missed: {}", missed.join(", "));
    Ok(())
}
