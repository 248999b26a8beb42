//! How long it takes: a lone awaited publish, and an open loop from the publish to the handler.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aqueduct::{
    App, Handled, State, Subscription,
    core::log::{CommitLog, Start},
};
use bench::{
    estimate::median,
    events::{Keys, Sold, pool},
    publish::runtime,
    raw::PARTITIONS,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    cluster::Cluster,
    raw::{Encoded, direct, wrapped},
};

/// Waits of one side of a lone publish in one round, and how many rounds.
const LONE: usize = 300;
const ROUNDS: usize = 6;
/// The open loop's interval.
const EVERY: Duration = Duration::from_micros(500);

/// Both sides' times.
#[derive(Debug)]
pub(crate) struct Times {
    name: &'static str,
    what: String,
    /// Microseconds.
    ours: Vec<f64>,
    raw: Vec<f64>,
    bar: Bar,
}

#[derive(Debug, Clone, Copy)]
enum Bar {
    /// At most so many microseconds more at the median.
    Added(f64),
    /// At most so many times as long, at the median and at the 99th percentile.
    Times(f64),
}

fn percentile(times: &[f64], of: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1)) as f64 * of;
    sorted.get(at as usize).copied().unwrap_or(f64::NAN)
}

impl Times {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn met(&self) -> bool {
        let (ours, raw) = (median(&self.ours), median(&self.raw));
        match self.bar {
            Bar::Added(most) => ours - raw <= most,
            Bar::Times(most) => {
                ours <= raw * most && percentile(&self.ours, 0.99) <= percentile(&self.raw, 0.99) * most
            }
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}: {}", self.name, self.what)?;
        writeln!(f, "              events   median µs      p99 µs")?;
        for (side, times) in [("ours", &self.ours), ("raw", &self.raw)] {
            let (count, middle, high) = (times.len(), median(times), percentile(times, 0.99));
            writeln!(f, "  {side:<8}{count:>12}{middle:>12.0}{high:>12.0}")?;
        }
        let bar = match self.bar {
            Bar::Added(most) => format!("at most {most:.0} µs more at the median"),
            Bar::Times(most) => format!("at most {most:.2} times as long at the median and at p99"),
        };
        writeln!(f, "  bar     {bar}: {}", if self.met() { "met" } else { "MISSED" })
    }
}

/// A lone caller that awaits each publish, against a report awaited; rounds of both take turns.
pub(crate) fn lone(cluster: &Arc<Cluster>) -> anyhow::Result<Times> {
    let pool = pool(LONE as u64, Keys::Zipf)?;
    let prefix = cluster.prefix();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    runtime()?.block_on(async {
        let (log, bus) = cluster.open(&prefix).await?;
        let producer = wrapped::Awaited::new(&cluster.producing())?;
        let (topic, mut encoded) = (Cluster::topic(&prefix), Encoded::new());
        for round in 0..=ROUNDS {
            for event in &pool {
                let began = Instant::now();
                bus.publish(event).await?;
                ours.push(began.elapsed().as_secs_f64() * 1e6);
            }
            for event in &pool {
                let began = Instant::now();
                producer.one(&topic, event, &mut encoded, &cluster.environment).await?;
                raw.push(began.elapsed().as_secs_f64() * 1e6);
            }
            if round == 0 {
                // To warm up.
                (ours, raw) = (Vec::new(), Vec::new());
            }
        }
        log.close().await?;
        anyhow::Ok(())
    })?;
    runtime()?.block_on(cluster.remove(&prefix))?;
    let what = "one caller awaits each publish; against ThreadedProducer with linger 0, one report awaited"
        .to_owned();
    Ok(Times { name: "publish-1", what, ours, raw, bar: Bar::Added(20.0) })
}

/// Where handlers leave how long it took, in microseconds.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<Mutex<Vec<f64>>>);

impl Taken {
    fn push(&self, event: &Sold, now: i64) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.push((now - event.at) as f64);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn all(&self) -> Vec<f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Clone)]
struct Watching {
    taken: Taken,
    cluster: Arc<Cluster>,
}

async fn watch(event: Sold, State(watching): State<Watching>) -> Handled {
    watching.taken.push(&event, watching.cluster.environment.now().as_micros());
    Ok(())
}

/// An open loop of 2,000 events a second from the publish to the handler.
pub(crate) fn open_loop(cluster: &Arc<Cluster>, count: usize) -> anyhow::Result<Times> {
    let pool = pool(1_000, Keys::Zipf)?;
    let ours = runtime()?.block_on(ours(cluster, &pool, count))?;
    let raw = raw(cluster, &pool, count)?;
    // The first quarter warms up.
    let warm = |times: Vec<f64>| times.into_iter().skip(count / 4).collect();
    let what = format!(
        "one event every {} µs, from the publish to the handler; against ThreadedProducer with linger 0 and \
         librdkafka's batch queue in one process",
        EVERY.as_micros()
    );
    Ok(Times { name: "open-loop", what, ours: warm(ours), raw: warm(raw), bar: Bar::Times(1.25) })
}

async fn ours(cluster: &Arc<Cluster>, pool: &[Sold], count: usize) -> anyhow::Result<Vec<f64>> {
    let prefix = cluster.prefix();
    let (log, bus) = cluster.open(&prefix).await?;
    let watching = Watching { taken: Taken::default(), cluster: Arc::clone(cluster) };
    let subscription = Subscription::builder("open-loop").on(watch).start(Start::Earliest);
    let app = App::builder("bench").state(watching.clone()).log(&bus).subscribe(subscription).build()?;
    let publishing = async {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..count {
            ticks.tick().await;
            let mut event = pool[number % pool.len()].clone();
            event.at = cluster.environment.now().as_micros();
            let publish = bus.publish(&event);
            tokio::spawn(async move {
                if let Err(error) = publish.await {
                    eprintln!("an event was not stored: {error}");
                }
            });
        }
        let began = Instant::now();
        while watching.taken.len() < count && began.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    app.run(publishing).await?;
    log.close().await?;
    cluster.remove(&prefix).await?;
    let taken = watching.taken.all();
    ensure!(taken.len() == count, "{} of {count} events were handled", taken.len());
    Ok(taken)
}

fn raw(cluster: &Arc<Cluster>, pool: &[Sold], count: usize) -> anyhow::Result<Vec<f64>> {
    let prefix = cluster.prefix();
    let runtime = runtime()?;
    runtime.block_on(async { cluster.open(&prefix).await?.0.close().await.map_err(anyhow::Error::from) })?;
    let (topic, taken) = (Cluster::topic(&prefix), Taken::default());
    let reading = {
        let (config, topic, taken, cluster) =
            (cluster.reading(), topic.clone(), taken.clone(), Arc::clone(cluster));
        std::thread::spawn(move || {
            direct::consume(&config, &topic, PARTITIONS, count as u64, |event| {
                taken.push(event, cluster.environment.now().as_micros());
            })
        })
    };
    let producer = wrapped::Awaited::new(&cluster.producing())?;
    runtime.block_on(async {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..count {
            ticks.tick().await;
            let mut event = pool[number % pool.len()].clone();
            event.at = cluster.environment.now().as_micros();
            let (producer, topic) = (producer.clone(), topic.clone());
            let environment = cluster.environment.clone();
            tokio::spawn(async move {
                let stored = producer.one(&topic, &event, &mut Encoded::new(), &environment).await;
                if let Err(error) = stored {
                    eprintln!("an event was not stored: {error}");
                }
            });
        }
    });
    reading.join().ok().context("the reader panicked")??;
    runtime.block_on(cluster.remove(&prefix))?;
    Ok(taken.all())
}
