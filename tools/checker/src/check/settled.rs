//! Settled offsets against what had ended, and what never ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Court,
    tables::{Aside, Tables},
};
use crate::{
    observation::{Finished, PartitionId, Place},
    report::Kind,
    rules::{Once, Rules, Subscription},
};

/// When each record of a partition ended for a group.
type Ends<'a> = HashMap<&'a PartitionId, BTreeMap<i64, u64>>;

pub(super) fn check(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    for subscription in &rules.subscriptions {
        let mut ends = ends(tables, &subscription.group);
        if subscription.effects == Some(Once::Event) {
            repeated(tables, &mut ends);
        }
        samples(tables, subscription, &ends, court);
        if rules.healed {
            unhandled(tables, rules, subscription, &ends, court);
        }
    }
}

fn ends<'a>(tables: &'a Tables<'_>, group: &str) -> Ends<'a> {
    let shards: HashMap<(&str, i32), &PartitionId> =
        tables.records.keys().map(|shard| ((shard.topic.as_str(), shard.partition), shard)).collect();
    let mut ends = Ends::new();
    let mut end = |place: &Place, at: u64| {
        if let Some(shard) = shards.get(&(place.topic.as_str(), place.partition)) {
            let first = ends.entry(*shard).or_default().entry(place.offset).or_insert(at);
            *first = (*first).min(at);
        }
    };
    for run in tables.runs.iter().filter(|run| run.group == group) {
        if let Some((at, Finished::Done)) = run.end {
            end(run.place, at);
        }
    }
    let mut set_aside = |copies: &Aside<'_>| {
        for ((_, place), copies) in copies.iter().filter(|((of, _), _)| *of == group) {
            for (at, _) in copies {
                end(place, *at);
            }
        }
    };
    set_aside(&tables.letters);
    set_aside(&tables.parked);
    for (_, place) in tables.compacted.iter().filter(|(of, _)| *of == group) {
        end(place, 0);
    }
    ends
}

/// A second copy of an event is not handled again where the first one took effect: it ended with it.
fn repeated<'a>(tables: &'a Tables<'_>, ends: &mut Ends<'a>) {
    for places in tables.copies.values().filter(|places| places.len() > 1) {
        let at = |place: &Place| ends.get(&place.shard())?.get(&place.offset).copied();
        let Some(first) = places.iter().filter_map(|place| at(place)).min() else { continue };
        for place in places {
            if let Some((shard, _)) = tables.records.get_key_value(&place.shard()) {
                ends.entry(shard).or_default().entry(place.offset).or_insert(first);
            }
        }
    }
}

/// Each record had ended before the first sample that stands above it.
fn samples(tables: &Tables<'_>, subscription: &Subscription, ends: &Ends<'_>, court: &mut Court) {
    let none = BTreeMap::new();
    for ((group, shard), samples) in &tables.samples {
        if *group != subscription.group || !subscription.topics.contains(&shard.topic) {
            continue;
        }
        let (Some(records), ended) = (tables.records.get(shard), ends.get(shard).unwrap_or(&none)) else {
            continue;
        };
        let mut judged = i64::MIN;
        for sample in samples {
            let Some(settled) = sample.offset else { continue };
            if settled > sample.end {
                let what = format!("{group}: {shard} is settled at {settled}, beyond its end {}", sample.end);
                court.find(Kind::SettledTooFar, what);
            }
            if settled <= judged {
                continue;
            }
            for (offset, seen) in records.range(judged..settled) {
                let wrong = match ended.get(offset) {
                    None => "never ended",
                    Some(at) if *at > sample.at => "ended later",
                    Some(_) => continue,
                };
                let id = seen.id.unwrap_or("no id");
                let what = format!("{group}: {shard} was settled at {settled}, {id} at {offset} {wrong}");
                court.find(Kind::SettledTooFar, what);
            }
            judged = settled;
        }
    }
}

/// After healing every record has ended: handled with its effect, set aside, or parked and waiting.
fn unhandled(
    tables: &Tables<'_>,
    rules: &Rules,
    subscription: &Subscription,
    ends: &Ends<'_>,
    court: &mut Court,
) {
    let group = subscription.group.as_str();
    let own = || tables.effects.iter().filter(|effect| effect.group == group);
    let effects: HashSet<&str> = own().map(|effect| effect.id).collect();
    let places: HashSet<&Place> = own().map(|effect| effect.place).collect();
    let none = BTreeMap::new();
    for (shard, records) in &tables.records {
        if !subscription.topics.contains(&shard.topic) {
            continue;
        }
        let ended = ends.get(shard).unwrap_or(&none);
        for (offset, seen) in records {
            let id = seen.id.unwrap_or("no id");
            let place = Place::new(shard.topic.as_str(), shard.partition, *offset);
            let of = (group, &place);
            let parked = tables.parked.contains_key(&of);
            let waits = parked && !tables.end_marks.contains_key(&of);
            let has_effect = match subscription.effects {
                None => true,
                Some(Once::Event) => effects.contains(id),
                Some(Once::Record) => places.contains(&place),
            };
            if !ended.contains_key(offset) {
                court.find(Kind::Lost, format!("{group}: {id} at {place} was never handled"));
            } else if waits {
                if rules.released {
                    court.find(Kind::Lost, format!("{group}: {id} at {place} is still parked"));
                }
            } else if !tables.letters.contains_key(&of) && !has_effect {
                court.find(Kind::Lost, format!("{group}: {id} at {place} has no effect"));
            }
        }
    }
}
