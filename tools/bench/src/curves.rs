//! What an event costs from one end of an axis to the other, on the memory log and one thread: the framework's own
//! cost and nothing that would hide it.

use std::{fmt::Write, sync::Arc};

use aqueduct::{
    App, Bus, Draft, Handled, Subscription, core::log::CommitLog, memory::MemoryLog, system_environment,
};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{
    consume::{FINISH, handle},
    estimate::{Estimate, median},
    events::Counted,
    many,
    measure::Cost,
};

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Deliveries in flight per partition.
    Window,
    /// Distinct keys.
    Keys,
    /// Handlers, each with an event type of its own.
    Handlers,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Window, Self::Keys, Self::Handlers];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Keys => "keys",
            Self::Handlers => "handlers",
        }
    }

    /// What the axis measures, where its name does not say it all.
    fn what(self) -> &'static str {
        match self {
            Self::Window => "deliveries in flight at most",
            Self::Keys => "distinct keys, one partition",
            Self::Handlers => {
                "handlers, each with its own type and as many events as any other; their instructions are gated in \
                 tests/it/instructions.rs, so what grows is misses of the caches"
            }
        }
    }

    fn points(self) -> &'static [u64] {
        match self {
            Self::Window => &[1, 16, 256, 4_096, 65_536],
            Self::Keys => &[1, 100, 10_000, 1_000_000],
            Self::Handlers => &[1, 10, 100, 500],
        }
    }

    /// What the right end may cost of the left.
    fn bar(self) -> f64 {
        match self {
            Self::Window | Self::Keys => 1.10,
            Self::Handlers => 1.02,
        }
    }
}

/// One axis, measured.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// The axis.
    pub axis: Axis,
    /// Each point and the median CPU microseconds per event there.
    pub points: Vec<(u64, f64)>,
    /// The right end by the left end.
    pub ratio: Estimate,
    /// At most this.
    pub bar: f64,
    /// Whether it is.
    pub met: bool,
}

async fn nothing(event: Counted) -> Handled {
    std::hint::black_box(&event);
    FINISH.one();
    Ok(())
}

/// Records for one point, and the subscription that handles them.
struct Point {
    runtime: Runtime,
    bus: Bus,
    axis: Axis,
    at: u64,
    count: u64,
}

impl Point {
    fn new(axis: Axis, at: u64, count: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bus = runtime.block_on(async {
            // One partition where the number of keys decides how many partitions have records.
            let log = Arc::new(MemoryLog::new(if axis == Axis::Keys { 1 } else { 12 }));
            let bus = Bus::open(log as Arc<dyn CommitLog>, system_environment()).await?;
            let keys = if axis == Axis::Keys { at } else { 10_000 };
            let types = match axis {
                Axis::Handlers => many::types("bench", at)?.drafts,
                Axis::Window | Axis::Keys => vec![(|event| Draft::of(&event)) as many::MakeDraft],
            };
            let mut makers = types.iter().cycle();
            let mut batch = Vec::new();
            for number in 0..count {
                if let Some(make) = makers.next() {
                    batch.push(make(Counted::new(number, keys))?);
                }
                if batch.len() == 1_000 || number + 1 == count {
                    bus.publish_all(std::mem::take(&mut batch)).await?;
                }
            }
            anyhow::Ok(bus)
        })?;
        Ok(Self { runtime, bus, axis, at, count })
    }

    fn run(&self, round: usize) -> anyhow::Result<Cost> {
        let group = format!("{}-{}-{round}", self.axis.name(), self.at);
        let subscription = match self.axis {
            Axis::Handlers => many::types(&group, self.at)?.subscription,
            Axis::Keys => Subscription::builder(&group).on(nothing),
            Axis::Window => Subscription::builder(&group).on(nothing).window(usize::try_from(self.at)?),
        };
        let app = App::builder("bench").log(&self.bus).subscribe(subscription).build()?;
        self.runtime.block_on(handle(app, self.count))
    }
}

/// Measures an axis: once to warm up, then in rounds, from left to right and back.
///
/// # Errors
/// A run failed.
pub fn measure(axis: Axis, count: u64, rounds: usize) -> anyhow::Result<Curve> {
    let points =
        axis.points().iter().map(|at| Point::new(axis, *at, count)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); points.len()];
    for round in 0..=rounds {
        let mut order: Vec<_> = points.iter().zip(&mut costs).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (point, costs) in order {
            let cost = point.run(round)?;
            if round > 0 {
                costs.push(cost.micros());
            }
        }
    }
    let empty = Vec::new();
    let (left, right) = (costs.first().unwrap_or(&empty), costs.last().unwrap_or(&empty));
    let ratio = Estimate::of(&left.iter().zip(right).map(|(left, right)| right / left).collect::<Vec<_>>());
    let bar = axis.bar();
    Ok(Curve {
        axis,
        points: points.iter().zip(&costs).map(|(point, costs)| (point.at, median(costs))).collect(),
        ratio,
        bar,
        met: ratio.median <= bar,
    })
}

impl Curve {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("\n{}: CPU µs per event; {}\n", self.axis.name(), self.axis.what());
        let left = self.points.first().map_or(f64::NAN, |(_, cost)| *cost);
        for (at, cost) in &self.points {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {at:>9}  {cost:>7.3}  {:>5.2}x", cost / left);
        }
        let Estimate { median, low, high } = self.ratio;
        let met = if self.met { "met" } else { "MISSED" };
        let _ =
            writeln!(text, "  right by left {median:.3} ({low:.3} to {high:.3}), bar {:.2}: {met}", self.bar);
        text
    }
}
