//! Other frameworks in the place of our side: RustStream, by `tools/bench-peers`, which is built apart from us and runs in a
//! process of its own. Topics, counts and raw sides are those of our rows.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use bench::{
    harness::{By, Row},
    measure::Cost,
};
use rdkafka::ClientConfig;

use crate::{
    Make, Options,
    cluster::Cluster,
    consume::{Consuming, Work},
    publish::{Against, Publishing},
};

/// The rows that `--peers` adds: `peer-` before the name of ours.
pub(crate) const ROWS: [(&str, Make); 4] = [
    ("peer-consume-inline", |name, options, cluster| {
        let count = options.events(500_000);
        peer(options, Consuming::new(name, Work::Nothing, 1, count, None, cluster))
    }),
    ("peer-consume-64", |name, options, cluster| {
        let count = options.events(500_000);
        peer(options, Consuming::new(name, Work::Nothing, 64, count, None, cluster))
    }),
    ("peer-sleep-64", |name, options, cluster| {
        let count = options.events(100_000);
        peer(options, Consuming::new(name, Work::Sleep, 64, count, None, cluster))
    }),
    ("peer-publish-64", |name, options, cluster| {
        let count = options.events(500_000);
        peer(options, Publishing::new(name, Against::Waiting(64), count, None, cluster)?)
    }),
];

/// What is printed for our side's name.
const SIDE: &str = "ruststream";

fn peer<R>(options: &Options, row: R) -> anyhow::Result<Box<dyn Row>>
where
    Peer<R>: Row + 'static,
{
    let program = options.peers.clone().context("the rows of peers need --peers")?;
    Ok(Box::new(Peer { program, row }))
}

/// `row` with the peer for our side.
struct Peer<R> {
    program: PathBuf,
    row: R,
}

impl Row for Peer<Consuming> {
    fn name(&self) -> &'static str {
        self.row.name()
    }

    fn side(&self) -> &'static str {
        SIDE
    }

    fn what(&self) -> String {
        let workers = match self.row.concurrency {
            1 => "one worker".to_owned(),
            workers => format!("{workers} workers by the record's key"),
        };
        let against = match self.row.work {
            Work::Nothing => {
                "a typed handler that does nothing; against librdkafka's batch queue and decode, one thread"
            }
            Work::Sleep => "a handler that sleeps 1 ms; against lanes written by hand, settling nothing",
        };
        format!(
            "RustStream, tracked commits, {workers}, joining, settling and shutting down included, {against}"
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        self.row.bar()
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let (program, count, concurrency) = (&self.program, self.row.count, self.row.concurrency);
        let (work, cluster) = (self.row.work, Arc::clone(&self.row.cluster));
        self.row.apart(|topic, group| {
            let mut command = Command::new(program);
            command.args(["consume", "--group", group, "--workers", &concurrency.to_string()]);
            if matches!(work, Work::Sleep) {
                command.arg("--sleep");
            }
            run(&mut command, &cluster, &cluster.reading(), topic, count, &[])
        })
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        self.row.raw()
    }

    fn remark(&self) -> String {
        self.row.remark()
    }
}

impl Row for Peer<Publishing> {
    fn name(&self) -> &'static str {
        self.row.name()
    }

    fn side(&self) -> &'static str {
        SIDE
    }

    fn what(&self) -> String {
        "RustStream, 64 callers await each publish, the same headers; against ThreadedProducer, as many callers that wait for a \
         report each"
            .to_owned()
    }

    fn bar(&self) -> Option<(By, f64)> {
        self.row.bar()
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let mut events = Vec::new();
        for event in &*self.row.pool {
            serde_json::to_writer(&mut events, event)?;
            events.push(b'\n');
        }
        let cluster = &self.row.cluster;
        self.row.stored(|_, topic| {
            let mut command = Command::new(&self.program);
            command.args(["publish", "--waiting", "64"]);
            run(&mut command, cluster, &cluster.producing(), topic, self.row.count, &events)
        })
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        self.row.raw()
    }

    fn remark(&self) -> String {
        self.row.remark()
    }
}

/// Runs the peer with the settings of the raw side, gives it `input`, and reads what it took.
fn run(
    command: &mut Command,
    cluster: &Cluster,
    config: &ClientConfig,
    topic: &str,
    count: u64,
    input: &[u8],
) -> anyhow::Result<Cost> {
    command.args(["--brokers", &cluster.servers, "--topic", topic, "--count", &count.to_string()]);
    for (name, value) in config.config_map() {
        if name != "bootstrap.servers" {
            command.arg("--property").arg(format!("{name}={value}"));
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().context("the peer has no standard input")?;
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for the peer")?;
    // What it died of says more than the pipe that broke by it.
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    written.context("cannot give the peer its events")?;
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the peer printed {:?}", String::from_utf8_lossy(&output.stdout)))?;
    let number =
        |name: &str| printed[name].as_u64().with_context(|| format!("the peer printed no {name}: {printed}"));
    let seconds = |name: &str| Ok::<_, anyhow::Error>(Duration::from_micros(number(name)?).as_secs_f64());
    let events = number("events")?;
    ensure!(events == count, "the peer was given {count} events and has done {events}");
    Ok(Cost { events, wall: seconds("wall_micros")?, cpu: seconds("cpu_micros")? })
}
