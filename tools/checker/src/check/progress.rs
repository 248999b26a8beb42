//! Partitions that stand, and what their owners say of it.

use std::collections::HashMap;

use super::{Court, tables::Tables};
use crate::{observation::PartitionId, report::Kind, rules::Rules};

/// A time in which a partition had lag and nothing of it ended.
struct Standing<'a> {
    group: &'a str,
    shard: &'a PartitionId,
    from: u64,
    to: u64,
}

pub(super) fn check(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    let standing = standing(tables);
    for each in standing.iter().filter(|each| each.to.saturating_sub(each.from) >= rules.stuck_after) {
        // Time in which no fault was open, without a break.
        let quiet = longest_without_fault(tables, each.from, each.to);
        if quiet >= rules.stuck_after {
            let seconds = quiet / 1_000_000;
            let what = format!("{}: {} had lag and no end for {seconds} s", each.group, each.shard);
            court.find(Kind::Stuck, what);
        }
        ready_while_standing(tables, rules, each, court);
    }
    unready_without_reason(tables, rules, &standing, court);
}

fn standing<'a>(tables: &'a Tables<'_>) -> Vec<Standing<'a>> {
    let mut ends: HashMap<(&str, &str, i32), Vec<u64>> = HashMap::new();
    for run in &tables.runs {
        if let Some((at, _)) = run.end {
            ends.entry((run.group, &run.place.topic, run.place.partition)).or_default().push(at);
        }
    }
    let mut found = Vec::new();
    for ((group, shard), samples) in &tables.samples {
        let mut ends = ends.remove(&(*group, shard.topic.as_str(), shard.partition)).unwrap_or_default();
        ends.sort_unstable();
        let mut ends = ends.into_iter().peekable();
        let records = tables.records.get(*shard);
        let mut since: Option<(u64, Option<i64>)> = None;
        let mut last = 0;
        for sample in samples {
            let mut ended = false;
            while ends.next_if(|end| *end <= sample.at).is_some() {
                ended = true;
            }
            let settled = sample.offset.unwrap_or(0);
            // Between them may be nothing but markers of transactions.
            let lag = sample.end > settled
                && records.is_none_or(|all| all.range(settled..sample.end).next().is_some());
            let stands = lag && !ended && since.is_none_or(|(_, offset)| offset == sample.offset);
            if let Some((from, _)) = since.filter(|_| !stands) {
                found.push(Standing { group, shard, from, to: last });
                since = None;
            }
            if lag && since.is_none() {
                since = Some((sample.at, sample.offset));
            }
            last = sample.at;
        }
        if let Some((from, _)) = since {
            found.push(Standing { group, shard, from, to: last });
        }
    }
    found
}

fn longest_without_fault(tables: &Tables<'_>, from: u64, to: u64) -> u64 {
    let mut faults: Vec<_> = tables.faults.iter().map(|fault| (fault.from, fault.to)).collect();
    faults.sort_unstable();
    let (mut quiet_from, mut longest) = (from, 0);
    for (opened, closed) in faults.into_iter().filter(|(opened, closed)| *opened <= to && *closed >= from) {
        longest = longest.max(opened.saturating_sub(quiet_from));
        quiet_from = quiet_from.max(closed);
    }
    longest.max(to.saturating_sub(quiet_from))
}

/// Its owner goes on saying that it is ready, and names no stall there.
fn ready_while_standing(tables: &Tables<'_>, rules: &Rules, each: &Standing<'_>, court: &mut Court) {
    let owner = tables
        .assignments
        .iter()
        .rev()
        .find(|one| one.group == each.group && one.shard == each.shard && one.at <= each.from);
    let Some(owner) = owner else { return };
    let Some(samples) = tables.readiness.get(owner.by) else { return };
    // What became of it later, it does not know.
    let gave = tables.revoked.get(&(owner.by, owner.group, owner.shard)).into_iter().flatten();
    let until = gave.copied().filter(|at| *at >= owner.at).min().map_or(each.to, |gave| gave.min(each.to));
    let due = each.from.saturating_add(rules.stuck_after).saturating_add(rules.readiness_slack);
    let lies = samples.iter().filter(|sample| sample.at >= due && sample.at <= until).filter(|sample| {
        let named = sample.stalls.iter().any(|stall| {
            stall.group == each.group && stall.shard.as_ref().is_none_or(|shard| shard == each.shard)
        });
        sample.ready && !named
    });
    let lies = lies.count();
    if lies > 0 {
        let what =
            format!("{}: {} stood, and its owner said {lies} times that all is well", each.group, each.shard);
        court.find(Kind::LyingReadiness, what);
    }
}

/// A process that was ready before goes on saying that it is not, and nothing is wrong.
fn unready_without_reason(tables: &Tables<'_>, rules: &Rules, standing: &[Standing<'_>], court: &mut Court) {
    let drains: HashMap<&str, u64> = tables.drains.iter().map(|drain| (drain.process, drain.at)).collect();
    for (process, samples) in &tables.readiness {
        let mut since = None;
        let mut was_ready = false;
        for sample in samples {
            if sample.ready {
                (since, was_ready) = (None, true);
                continue;
            }
            let wrong = tables.fault_between(sample.at, sample.at, |_| true)
                || standing.iter().any(|each| {
                    (each.from..=each.to).contains(&sample.at)
                        && each.to.saturating_sub(each.from) > rules.readiness_slack
                })
                || drains.get(process).is_some_and(|at| *at <= sample.at);
            if wrong || !was_ready {
                since = None;
                continue;
            }
            let from = *since.get_or_insert(sample.at);
            if sample.at.saturating_sub(from) > rules.readiness_slack {
                let seconds = sample.at.saturating_sub(from) / 1_000_000;
                let what =
                    format!("{process} says that it is not ready for {seconds} s, and nothing is wrong");
                court.find(Kind::LyingReadiness, what);
                break;
            }
        }
    }
}
