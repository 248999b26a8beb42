//! Drains: in time, and truthfully reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Court,
    late::Late,
    tables::{Run, Tables},
};
use crate::{
    observation::Finished,
    report::Kind,
    rules::{Once, Rules},
};

pub(super) fn check(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    let late = Late::new(tables, rules);
    for drain in &tables.drains {
        let process = drain.process;
        let Some((ended, reported)) = drain.ended else {
            court.find(Kind::LateDrain, format!("{process} was asked to drain and never ended"));
            continue;
        };
        let took = ended.saturating_sub(drain.at);
        let blocked = tables.fault_between(drain.at, ended, |kind| rules.blocking.contains(kind));
        if !blocked && took > drain.deadline.saturating_add(rules.drain_slack) {
            let (took, deadline) = (took / 1_000, drain.deadline / 1_000);
            court.find(Kind::LateDrain, format!("{process} drained for {took} ms of {deadline} ms"));
        }
        // Its time was used up, but for what it keeps for the last settle.
        let whole = took.saturating_add(rules.drain_slack) >= drain.deadline;
        // What was cut off is unfinished for certain; what waited for its next attempt may be.
        let mut cut = BTreeSet::new();
        let mut open = BTreeSet::new();
        let mut done = BTreeMap::new();
        for run in tables.runs.iter().filter(|run| run.by == process) {
            // What was given up at a hand-over, and was done when the partition came back, is reported too.
            let of = (run.group, run.place, run.generation);
            if let Some((at, Finished::Cancelled)) = run.end
                && at >= drain.at
                && at.saturating_add(rules.drain_slack) < drain.at.saturating_add(drain.deadline)
                && !handed_over(tables, run, ended)
            {
                let after = (at - drain.at) / 1_000;
                let what = format!("{process} gave {} up {after} ms after it was asked to drain", run.id);
                court.find(Kind::CutShort, what);
            }
            match run.end {
                Some((at, Finished::Cancelled)) if at >= drain.at => cut.insert(of),
                None => cut.insert(of),
                Some((_, Finished::Failed | Finished::Cancelled)) => open.insert(of),
                Some((_, Finished::Done)) => {
                    cut.remove(&of);
                    open.remove(&of);
                    done.insert(of, run).is_none()
                }
            };
        }
        // What a handler returned is stored once all before it have ended, and in a transaction; a release is over with its
        // end mark. Until then it may have to come again.
        let mut first: HashMap<_, i64> = HashMap::new();
        for (group, place, generation) in cut.union(&open) {
            let first = first.entry((*group, place.shard(), *generation)).or_insert(place.offset);
            *first = place.offset.min(*first);
        }
        let unstored = done.iter().filter(|((group, place, generation), run)| {
            let shard = place.shard();
            // The mark may be the next owner's.
            let until = tables.gave_back(run, &shard).unwrap_or(ended);
            let marked = tables.end_marks.get(&(*group, *place));
            let released = run.released && marked.is_none_or(|at| *at > until);
            let returns = rules.once(group) == Some(Once::Record);
            let late = returns && (whole || late.met(run, &shard, ended));
            let first = first.get(&(*group, shard, *generation));
            released || late || returns && first.is_some_and(|first| *first < place.offset)
        });
        open.extend(unstored.map(|(of, _)| *of));
        let least = u64::try_from(cut.len()).unwrap_or(u64::MAX);
        // What waits for its transaction has begun, and no handler tells of it.
        let waits = |group: &str| rules.once(group) == Some(Once::Event);
        let most = if tables.assignments.iter().any(|each| each.by == process && waits(each.group)) {
            u64::MAX
        } else {
            u64::try_from(cut.union(&open).count()).unwrap_or(u64::MAX)
        };
        if !(least..=most).contains(&reported) {
            let what = format!("{process} reported {reported} unfinished, not {least} to {most}");
            court.find(Kind::FalseReport, what);
        }
    }
}

/// Whether the run's partition went to another owner before its process ended: a hand-over, whose deadline may have begun
/// before the drain's, gave it up.
fn handed_over(tables: &Tables<'_>, run: &Run<'_>, ended: u64) -> bool {
    let shard = run.place.shard();
    tables.assignments.iter().any(|each| {
        each.group == run.group
            && *each.shard == shard
            && each.generation > run.generation
            && each.at <= ended
    })
}
