//! What handlers were given: order, overlap, repetition, effects.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Court,
    late::Late,
    tables::{Assignment, Run, Tables},
};
use crate::{
    observation::{Finished, PartitionId, Place},
    report::Kind,
    rules::{Once, Rules},
};

pub(super) fn check(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    order(tables, court);
    overlap(tables, court);
    effects(tables, rules, court);
    aside(tables, court);
}

/// The first starts of a key's records are in the order of their offsets, parked and released ones too.
fn order(tables: &Tables<'_>, court: &mut Court) {
    let mut last: HashMap<(&str, &str, i32, &str), (i64, &str)> = HashMap::new();
    let mut started = HashMap::new();
    for run in &tables.runs {
        let Some(key) = run.key else { continue };
        if started.insert((run.group, run.place), ()).is_some() {
            continue;
        }
        let of = (run.group, run.place.topic.as_str(), run.place.partition, key);
        match last.get(&of) {
            Some((offset, id)) if *offset > run.place.offset => {
                let what = format!(
                    "{}: {} ({}) of key {key} started after {id} of offset {offset}",
                    run.group, run.id, run.place
                );
                court.find(Kind::Reordered, what);
            }
            _ => {
                last.insert(of, (run.place.offset, run.id));
            }
        }
    }
}

/// Runs of one key under one generation do not meet.
fn overlap(tables: &Tables<'_>, court: &mut Court) {
    let mut running: HashMap<(&str, &str, i32, &str, i64), &Run<'_>> = HashMap::new();
    for run in &tables.runs {
        let Some(key) = run.key else { continue };
        let of = (run.group, run.place.topic.as_str(), run.place.partition, key, run.generation);
        if let Some(before) = running.get(&of) {
            // Without an end its process was killed; another one that goes on under the same generation meets it.
            let met = match before.end {
                Some((end, _)) => end > run.from,
                None => before.by == run.by,
            };
            if met {
                let what = format!(
                    "{}: {} ({}) and {} ({}) of key {key} ran at one time in generation {}",
                    run.group, before.id, before.place, run.id, run.place, run.generation
                );
                court.find(Kind::Overlapping, what);
            }
        }
        let later = |other: &&Run<'_>| ends(other) > ends(run);
        if !running.get(&of).is_some_and(later) {
            running.insert(of, run);
        }
    }
}

fn ends(run: &Run<'_>) -> u64 {
    run.end.map_or(run.from, |(end, _)| end)
}

fn effects(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    let mut once: HashMap<(&str, &str), &Place> = HashMap::new();
    let mut places: HashSet<(&str, &Place)> = HashSet::new();
    // Of each key, the last place whose effect stands in the other topic.
    let mut last: HashMap<(&str, &str, i32, &str), &Place> = HashMap::new();
    let mut effects: Vec<_> = tables.effects.iter().collect();
    effects.sort_by_key(|effect| effect.seq);
    for effect in effects {
        let of_records = rules.once(effect.group) == Some(Once::Record);
        let twice = if of_records {
            (!places.insert((effect.group, effect.place))).then_some(effect.place)
        } else {
            once.insert((effect.group, effect.id), effect.place)
        };
        if let Some(before) = twice {
            let what = format!(
                "{}: {} took effect twice, from {before} and from {}",
                effect.group, effect.id, effect.place
            );
            court.find(Kind::Doubled, what);
        }
        let source = tables.records.get(&effect.place.shard()).and_then(|all| all.get(&effect.place.offset));
        if let Some(key) = source.and_then(|seen| seen.key).filter(|_| of_records) {
            let of = (effect.group, effect.place.topic.as_str(), effect.place.partition, key);
            if let Some(before) = last.insert(of, effect.place)
                && before.offset > effect.place.offset
            {
                let what = format!(
                    "{}: the effect of {} stands behind that of {before}, both of key {key}",
                    effect.group, effect.place
                );
                court.find(Kind::Reordered, what);
            }
        }
        if rules.read_to_end && source.is_none_or(|seen| seen.id != Some(effect.id)) {
            let what =
                format!("{}: an effect of {}, which is not at {}", effect.group, effect.id, effect.place);
            court.find(Kind::Phantom, what);
        }
    }
}

/// Copies that were set aside: equal to the original, and one each, save where a fault hid the first, or where the
/// record was released and failed again.
fn aside(tables: &Tables<'_>, court: &mut Court) {
    let mut ran: HashMap<(&str, &Place), Vec<u64>> = HashMap::new();
    for run in &tables.runs {
        ran.entry((run.group, run.place)).or_default().push(run.from);
    }
    // When records of a key that were parked had ended: the next one was tried then.
    let mut went_on: HashMap<(&str, &str, i32, &str), Vec<u64>> = HashMap::new();
    for ((group, place), at) in &tables.end_marks {
        if let Some(key) = tables.key_of(place) {
            went_on.entry((*group, &place.topic, place.partition, key)).or_default().push(*at);
        }
    }
    let within = |times: Option<&Vec<u64>>, from: u64, to: u64| {
        times.is_some_and(|times| times.iter().any(|at| (from..=to).contains(at)))
    };
    for (name, copies) in [("dead letter", &tables.letters), ("parked copy", &tables.parked)] {
        for ((group, place), copies) in copies {
            // What does not decode is tried without a run.
            let tried_again = |from, to, key: Option<&str>| {
                let ran = ran.get(&(*group, *place));
                let asked = key.and_then(|key| tables.releases.get(&(*group, place.topic.as_str(), key)));
                let behind = key.and_then(|key| went_on.get(&(*group, &place.topic, place.partition, key)));
                name == "parked copy" && [ran, asked, behind].into_iter().any(|times| within(times, from, to))
            };
            let source = tables.records.get(&place.shard()).and_then(|all| all.get(&place.offset));
            for (_, crc) in copies {
                match source {
                    None => {
                        court.find(Kind::Phantom, format!("{group}: a {name} of {place}, which is nothing"))
                    }
                    Some(seen) if seen.crc != *crc => {
                        let what = format!("{group}: the {name} of {place} differs from its original");
                        court.find(Kind::Inconsistent, what);
                    }
                    Some(_) => {}
                }
            }
            for pair in copies.windows(2) {
                if let [(first, _), (second, _)] = pair
                    && !tables.fault_between(*first, *second, |_| true)
                    && !tried_again(*first, *second, source.and_then(|seen| seen.key))
                {
                    court.find(Kind::Doubled, format!("{group}: two {name}s of {place}, and no fault"));
                }
            }
        }
    }
}

/// Judges repeated deliveries, and counts those that are allowed.
pub(super) fn duplicates(tables: &Tables<'_>, rules: &Rules, court: &mut Court) -> u64 {
    let mut by_place: BTreeMap<(&str, &Place), Vec<&Run<'_>>> = BTreeMap::new();
    for run in &tables.runs {
        by_place.entry((run.group, run.place)).or_default().push(run);
    }
    let mut began: HashMap<(&str, &PartitionId), BTreeMap<i64, &Assignment<'_>>> = HashMap::new();
    for each in &tables.assignments {
        began.entry((each.group, each.shard)).or_default().insert(each.generation, each);
    }
    let done = done(tables);
    let late = Late::new(tables, rules);
    let mut allowed = 0;
    for ((group, place), runs) in by_place {
        let window = rules.subscriptions.iter().find(|each| each.group == group).map(|each| each.window);
        for pair in runs.windows(2) {
            let [first, second] = pair else { continue };
            let same_owner = first.by == second.by && first.generation == second.generation;
            let failed = matches!(first.end, Some((_, Finished::Failed)));
            let what = |why: &str| {
                format!(
                    "{group}: {} ({place}), after {} in generation {} at {}, was delivered to {} in generation {} at {} {why}",
                    second.id,
                    first.by,
                    first.generation,
                    first.from,
                    second.by,
                    second.generation,
                    second.from
                )
            };
            if same_owner && failed {
                // A release starts anew; an outage counts no attempt.
                let anew = second.released && !first.released && second.attempt == 1;
                let counted = second.attempt == first.attempt + 1;
                let outage = second.attempt == first.attempt
                    && tables.fault_between(first.from, second.from, |kind| rules.repeating.contains(kind));
                let again = second.released && second.attempt == 1;
                if !(anew || counted || outage || again) {
                    let attempts = format!("as attempt {} after {}", second.attempt, first.attempt);
                    court.find(Kind::Doubled, what(&attempts));
                }
                continue;
            }
            if same_owner {
                let repeats =
                    tables.fault_between(first.from, second.from, |kind| rules.repeating.contains(kind));
                if !repeats {
                    court.find(Kind::Doubled, what("by the same owner, and no fault that repeats"));
                    continue;
                }
                allowed += 1;
                continue;
            }
            if failed {
                // Its attempts end with its owner; it has not ended, so it comes again.
                continue;
            }
            let given_up = matches!(first.end, Some((_, Finished::Cancelled)));
            let shard = place.shard();
            let began = began.get(&(group, &shard));
            // The hand-over that followed the first run, and the one that the second run came with.
            let next = began.and_then(|began| began.range(first.generation + 1..).next());
            let assignment = began.and_then(|began| began.get(&second.generation).copied());
            let explained = given_up
                || tables.fault_between(first.from, second.from, |_| true)
                || next.is_some_and(|(_, next)| held_back(tables, &done, first, next))
                || late.met(first, &shard, second.from);
            if !explained {
                court.find(Kind::Doubled, what("with no fault"));
                continue;
            }
            let from = assignment.and_then(|assignment| assignment.settled);
            if !second.released && from.is_some_and(|from| place.offset < from) {
                court.find(Kind::Doubled, what("below the settled offset that its assignment began with"));
                continue;
            }
            // An older owner that woke got as far as it had settled, and the next one began there. If it woke before it took
            // the partition up, it began where the newer owner was by then.
            let reached = if second.generation < first.generation {
                let next = began.and_then(|began| began.range(second.generation + 1..).next());
                next.and_then(|(_, next)| next.settled).max(from)
            } else {
                from
            };
            let rewind = tables.records.get(&shard).map_or(0, |all| {
                all.range(reached.unwrap_or(i64::MIN).min(place.offset)..place.offset).count()
            });
            if !second.released
                && window.is_some_and(|window| u64::try_from(rewind).unwrap_or(u64::MAX) >= window)
            {
                let why = format!("{rewind} records above the settled offset, beyond the window");
                court.find(Kind::Doubled, what(&why));
                continue;
            }
            allowed += 1;
        }
    }
    allowed
}

/// When a record was handled under a generation.
type Done<'a> = HashMap<(&'a str, &'a Place, i64), u64>;

fn done<'a>(tables: &'a Tables<'_>) -> Done<'a> {
    let mut done = Done::new();
    for run in &tables.runs {
        if let Some((at, Finished::Done)) = run.end {
            done.entry((run.group, run.place, run.generation)).or_insert(at);
        }
    }
    done
}

/// Whether the record at which an assignment began had not ended under `first`, the older one: the hand-over did not
/// wait longer for it, and what had ended above it comes again.
fn held_back(tables: &Tables<'_>, done: &Done<'_>, first: &Run<'_>, assignment: &Assignment<'_>) -> bool {
    let shard = assignment.shard;
    let records = tables.records.get(shard);
    let Some((offset, _)) = records.and_then(|all| all.range(assignment.settled.unwrap_or(0)..).next())
    else {
        return false;
    };
    let place = Place::new(shard.topic.as_str(), shard.partition, *offset);
    let aside = [&tables.letters, &tables.parked].into_iter().filter_map(|of| of.get(&(first.group, &place)));
    let handled = done.get(&(first.group, &place, first.generation)).copied();
    !aside.flatten().map(|(at, _)| *at).chain(handled).any(|at| at <= assignment.at)
}
