//! Pairs of runs, ours and the raw loop, in one process: ours first, then raw first, and so on (ABBA), so that what
//! drifts hits both. Runs of one side that stand next to each other are the canary: their ratio must be 1.

use std::fmt::Write;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::{
    estimate::{Estimate, median, spread},
    measure::Cost,
};

/// What a bar is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// CPU time per event.
    Cpu,
    /// Events per second of wall time.
    Rate,
}

/// One comparison.
pub trait Row {
    /// Its short name.
    fn name(&self) -> &'static str;
    /// What our side is called: others may be measured in its place.
    fn side(&self) -> &'static str {
        "ours"
    }
    /// What is compared, in a sentence.
    fn what(&self) -> String;
    /// The ratio that must be reached, and of what; none where the figure is only shown.
    fn bar(&self) -> Option<(By, f64)>;
    /// Runs our side once, or what is measured in its place, and verifies what it left.
    ///
    /// # Errors
    /// It failed, or the counts are wrong.
    fn ours(&mut self) -> anyhow::Result<Cost>;
    /// Runs the raw side once, and verifies what it left. Ours has run before.
    ///
    /// # Errors
    /// It failed, or the counts are wrong.
    fn raw(&mut self) -> anyhow::Result<Cost>;
    /// What else there is to say after the runs.
    fn remark(&self) -> String;
}

/// One side of a row.
#[derive(Debug, Serialize)]
pub struct Side {
    /// CPU microseconds per event: the median, and from the smallest to the largest as a share of it.
    pub cpu_micros: f64,
    /// See `cpu_micros`.
    pub cpu_spread: f64,
    /// Events per second of wall time.
    pub rate: f64,
    /// See `rate`.
    pub rate_spread: f64,
    /// Every run.
    pub runs: Vec<Cost>,
}

impl Side {
    fn of(runs: Vec<Cost>) -> Self {
        let cpu: Vec<_> = runs.iter().map(Cost::micros).collect();
        let rate: Vec<_> = runs.iter().map(Cost::rate).collect();
        Self {
            cpu_micros: median(&cpu),
            cpu_spread: spread(&cpu),
            rate: median(&rate),
            rate_spread: spread(&rate),
            runs,
        }
    }
}

/// What a row came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The row.
    pub name: &'static str,
    /// What our side is called.
    pub side: &'static str,
    /// What was compared.
    pub what: String,
    /// Which side ran first in each pair.
    pub first: Vec<&'static str>,
    /// Our side.
    pub ours: Side,
    /// The raw side.
    pub raw: Side,
    /// Raw CPU time per event by ours: 1 is free.
    pub cpu_ratio: Estimate,
    /// Our rate by the raw rate.
    pub rate_ratio: Estimate,
    /// The ratio of runs of one side that stand next to each other, by CPU time and by rate.
    pub canary: (Estimate, Estimate),
    /// The bar.
    pub bar: Option<(By, f64)>,
    /// Whether it was reached.
    pub met: Option<bool>,
    /// The rest.
    pub remark: String,
}

/// Runs a row: one run of each side to warm up, then the pairs.
///
/// # Errors
/// A side failed, or its counts are wrong.
pub fn compare(row: &mut dyn Row, pairs: usize) -> anyhow::Result<Report> {
    ensure!(pairs >= 2, "a comparison needs 2 pairs at least");
    let ours =
        |row: &mut dyn Row| row.ours().with_context(|| format!("{}, the side {:?}", row.name(), row.side()));
    let raw = |row: &mut dyn Row| row.raw().with_context(|| format!("{}, the raw side", row.name()));
    ours(row)?;
    raw(row)?;
    let (mut our_runs, mut raw_runs, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        if pair.is_multiple_of(2) {
            first.push(row.side());
            our_runs.push(ours(row)?);
            raw_runs.push(raw(row)?);
        } else {
            first.push("raw");
            raw_runs.push(raw(row)?);
            our_runs.push(ours(row)?);
        }
    }
    let pairwise = |of: fn(&Cost, &Cost) -> f64| {
        let ratios: Vec<_> = our_runs.iter().zip(&raw_runs).map(|(ours, raw)| of(ours, raw)).collect();
        Estimate::of(&ratios)
    };
    let cpu_ratio = pairwise(|ours, raw| raw.micros() / ours.micros());
    let rate_ratio = pairwise(|ours, raw| ours.rate() / raw.rate());
    // O R R O O R R O: raw runs 0 and 1, our runs 1 and 2, raw runs 2 and 3 stand next to each other.
    let neighbours = |of: fn(&Cost) -> f64| {
        let ratios: Vec<_> = (1..pairs)
            .map(|pair| if pair.is_multiple_of(2) { &our_runs } else { &raw_runs })
            .zip(1..)
            .filter_map(|(runs, pair): (&Vec<Cost>, usize)| {
                Some(of(runs.get(pair)?) / of(runs.get(pair - 1)?))
            })
            .collect();
        Estimate::of(&ratios)
    };
    let canary = (neighbours(Cost::micros), neighbours(Cost::rate));
    let bar = row.bar();
    let met = bar.map(|(by, bar)| match by {
        By::Cpu => cpu_ratio.median >= bar,
        By::Rate => rate_ratio.median >= bar,
    });
    Ok(Report {
        name: row.name(),
        side: row.side(),
        what: row.what(),
        first,
        ours: Side::of(our_runs),
        raw: Side::of(raw_runs),
        cpu_ratio,
        rate_ratio,
        canary,
        bar,
        met,
        remark: row.remark(),
    })
}

impl Report {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let events = self.ours.runs.first().map_or(0, |run| run.events);
        writeln!(text, "\n{}: {}", self.name, self.what)?;
        writeln!(
            text,
            "  {} pairs of {events} events, first: {}; {}",
            self.first.len(),
            self.first.join(" "),
            self.remark
        )?;
        let width = self.side.len().max(7) + 1;
        writeln!(text, "  {:width$}CPU µs/event  spread      events/s  spread", "")?;
        for (name, side) in [(self.side, &self.ours), ("raw", &self.raw)] {
            writeln!(
                text,
                "  {name:<width$}{:>12.3}  {:>5.1}%  {:>12.0}  {:>5.1}%",
                side.cpu_micros,
                side.cpu_spread * 100.0,
                side.rate,
                side.rate_spread * 100.0
            )?;
        }
        let shown = |estimate: &Estimate| {
            format!("{:.3} ({:.3} to {:.3})", estimate.median, estimate.low, estimate.high)
        };
        writeln!(
            text,
            "  {:width$}CPU {}, rate {}",
            "ratio",
            shown(&self.cpu_ratio),
            shown(&self.rate_ratio)
        )?;
        writeln!(text, "  {:width$}CPU {}, rate {}", "canary", shown(&self.canary.0), shown(&self.canary.1))?;
        match (self.bar, self.met) {
            (Some((by, bar)), Some(met)) => {
                let of = match by {
                    By::Cpu => "CPU",
                    By::Rate => "rate",
                };
                writeln!(text, "  {:width$}{of} {bar:.2}: {}", "bar", if met { "met" } else { "MISSED" })
            }
            _ => writeln!(text, "  {:width$}none, shown for comparison", "bar"),
        }
    }
}
