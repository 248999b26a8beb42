//! What was decided.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A kind of broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Acknowledged and not in the log, or in the log and never handled.
    Lost,
    /// In the log or the database, and nobody did it.
    Phantom,
    /// Visible, though its writer was told that it failed.
    Aborted,
    /// Acknowledged by a process whose log had failed.
    OkAfterFailure,
    /// Part of an atomic publish is visible.
    Torn,
    /// Two events of a key in the wrong order.
    Reordered,
    /// Two runs of one key under one generation at one time.
    Overlapping,
    /// A settled offset above a delivery that had not ended.
    SettledTooFar,
    /// A write of an older generation after one of a newer.
    Zombie,
    /// An effect twice, or a duplicate that no fault explains.
    Doubled,
    /// One offset, two values; or a copy that differs from its original.
    Inconsistent,
    /// Lag, no end, no fault.
    Stuck,
    /// Ready while standing, or not ready while nothing is wrong.
    LyingReadiness,
    /// A drain that ended after its deadline, or not.
    LateDrain,
    /// A delivery given up before the deadline of its drain.
    CutShort,
    /// A drain whose report differs from what happened.
    FalseReport,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub kind: Kind,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// What was decided of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Broken promises, all of them.
    pub verdicts: Vec<Verdict>,
    /// Why the run proves nothing, if it does not.
    pub void: Option<String>,
    /// What happened, by name: `acknowledged`, `unknown`, `failed`, `records`, `starts`, `retries`, `duplicates`,
    /// `rebalances`, `hand-overs`, `late hand-overs`, `letters`, `parked`, `releases`, `still parked`, `effects`, `samples`,
    /// `ready`, `drains`, `writes`, `refused writes`, `faults`, and `fault KIND` for each kind.
    pub counts: BTreeMap<String, u64>,
}

impl Report {
    /// Whether the run proves that the promises were kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdicts.is_empty() && self.void.is_none()
    }

    /// How many verdicts of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.kind == kind).count()
    }
}

/// The longest list of one kind that is shown.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: BTreeMap<Kind, usize> = BTreeMap::new();
        for verdict in &self.verdicts {
            let count = shown.entry(verdict.kind).or_default();
            *count += 1;
            if *count <= SHOWN {
                writeln!(f, "{verdict}")?;
            }
        }
        for (kind, count) in shown.iter().filter(|(_, count)| **count > SHOWN) {
            writeln!(f, "{kind:?}: {} more", count - SHOWN)?;
        }
        if let Some(void) = &self.void {
            writeln!(f, "void: {void}")?;
        }
        let counts: Vec<_> = self.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "counts: {}", counts.join(", "))?;
        let verdict = match (self.verdicts.len(), &self.void) {
            (0, None) => "kept",
            (0, Some(_)) => "void",
            _ => "BROKEN",
        };
        write!(f, "verdict: {verdict}")
    }
}
