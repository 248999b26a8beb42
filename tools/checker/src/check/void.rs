//! Whether enough happened for the run to prove anything.

use std::collections::BTreeMap;

use super::tables::{Op, Tables};
use crate::{observation::Outcome, rules::Rules};

pub(super) fn counts(tables: &Tables<'_>, rules: &Rules, duplicates: u64) -> BTreeMap<String, u64> {
    let size = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let events = |outcome| {
        size(tables.ops.iter().filter(|op| op.outcome == outcome).map(|op| op.events.len()).sum::<usize>())
    };
    let mut counts: BTreeMap<String, u64> = [
        ("acknowledged", events(Outcome::Ok)),
        ("failed", events(Outcome::Fail)),
        ("unknown", events(Outcome::Unknown)),
        ("records", size(tables.records.values().map(BTreeMap::len).sum())),
        ("starts", size(tables.runs.len())),
        ("retries", size(tables.runs.iter().filter(|run| run.attempt > 1).count())),
        ("duplicates", duplicates),
        ("rebalances", size(tables.assignments.len())),
        ("hand-overs", size(tables.hand_overs.values().map(Vec::len).sum())),
        ("late hand-overs", size(tables.late_hand_overs(rules.hand_over).count())),
        ("letters", size(tables.letters.len())),
        // What compaction has removed since was parked too.
        ("parked", size(tables.parked.len() + tables.compacted.len())),
        ("still parked", size(tables.parked.keys().filter(|of| !tables.end_marks.contains_key(of)).count())),
        ("releases", size(tables.releases.values().map(Vec::len).sum())),
        ("effects", size(tables.effects.len())),
        ("samples", size(tables.samples.values().map(Vec::len).sum())),
        ("ready", size(tables.readiness.values().map(Vec::len).sum())),
        ("drains", size(tables.drains.len())),
        ("writes", size(tables.writes.len())),
        ("refused writes", tables.refused),
        ("faults", size(tables.faults.len())),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into();
    for fault in &tables.faults {
        *counts.entry(format!("fault {}", fault.kind)).or_default() += 1;
    }
    counts
}

pub(super) fn reason(tables: &Tables<'_>, rules: &Rules, counts: &BTreeMap<String, u64>) -> Option<String> {
    for (name, least) in &rules.at_least {
        let count = counts.get(name).copied().unwrap_or(0);
        if count < *least {
            return Some(format!("{name} {count}, at least {least} were to happen"));
        }
    }
    for (inside, least) in [(false, rules.ok_outside), (true, rules.ok_inside)] {
        // A call that never returned met the end of its process.
        let hit = |op: &Op<'_>| op.returned.is_none_or(|at| tables.fault_between(op.at, at, |_| true));
        let calls = || tables.ops.iter().filter(|op| hit(op) == inside);
        let (all, ok) = (calls().count(), calls().filter(|op| op.outcome == Outcome::Ok).count());
        if u64::try_from(ok).unwrap_or(0) * 1_000 < u64::try_from(all).unwrap_or(0) * least {
            let place = if inside { "inside" } else { "outside" };
            return Some(format!("{ok} of {all} publishes {place} of faults were acknowledged"));
        }
    }
    None
}
