//! What publishers were told, against what the log holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Court, tables::Tables};
use crate::{
    observation::{Outcome, Place},
    report::Kind,
    rules::{Once, Rules},
};

pub(super) fn check(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    let staged: HashSet<&str> =
        tables.effects.iter().flat_map(|effect| effect.stages.iter().map(String::as_str)).collect();
    acknowledged(tables, rules, court);
    if rules.read_to_end && rules.healed {
        for id in staged.iter().filter(|id| !tables.copies.contains_key(**id)) {
            court.find(Kind::Lost, format!("{id} was staged by a committed effect and is not in the log"));
        }
    }
    for (shard, records) in tables.records.iter().filter(|(shard, _)| rules.topics.contains(&shard.topic)) {
        for (offset, seen) in records {
            let Some(id) = seen.id else {
                court.find(Kind::Phantom, format!("{shard}@{offset} carries no id"));
                continue;
            };
            match tables.sent.get(id) {
                None if staged.contains(id) => {}
                None => court.find(Kind::Phantom, format!("nobody published {id} at {shard}@{offset}")),
                Some(sent) => {
                    let calls = || sent.iter().filter_map(|(op, index)| Some((tables.ops.get(*op)?, *index)));
                    if calls().all(|(op, _)| op.outcome == Outcome::Fail) {
                        let what =
                            format!("{id} is at {shard}@{offset}, its publisher was told that it failed");
                        court.find(Kind::Aborted, what);
                    }
                    let same = calls().any(|(op, index)| {
                        op.events.get(index).is_some_and(|event| {
                            event.crc == seen.crc
                                && event.key.as_deref() == seen.key
                                && event.topic == shard.topic
                        })
                    });
                    if !same {
                        let what = format!("{id} at {shard}@{offset} differs from what was published");
                        court.find(Kind::Inconsistent, what);
                    }
                }
            }
        }
    }
    order(tables, rules, court);
    copies(tables, court);
    if rules.poisoned {
        poisoned(tables, court);
    }
}

/// Once a publish failed, none that begins later in that process is acknowledged.
fn poisoned(tables: &Tables<'_>, court: &mut Court) {
    let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
    for op in tables.ops.iter().filter(|op| op.outcome != Outcome::Ok) {
        if let Some(at) = op.returned {
            let first = failed.entry(op.by).or_insert(at);
            *first = (*first).min(at);
        }
    }
    for op in tables.ops.iter().filter(|op| op.outcome == Outcome::Ok) {
        if failed.get(op.by).is_some_and(|at| *at < op.at) {
            let first = op.events.first().map_or("", |event| &event.id);
            court.find(Kind::OkAfterFailure, format!("{} was acknowledged {first} after a failure", op.by));
        }
    }
}

fn acknowledged(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    for op in &tables.ops {
        let present = op.events.iter().filter(|event| tables.copies.contains_key(event.id.as_str())).count();
        if op.atomic && rules.read_to_end && present != 0 && present != op.events.len() {
            let first = op.events.first().map_or("", |event| &event.id);
            let what = format!("{present} of the {} events from {first} on are visible", op.events.len());
            court.find(Kind::Torn, what);
        }
        if op.outcome != Outcome::Ok {
            continue;
        }
        for (index, event) in op.events.iter().enumerate() {
            let place = op.places.get(index);
            let held = place.and_then(|place| tables.records.get(&place.shard())?.get(&place.offset));
            if let (Some(place), Some(held)) = (place, held)
                && held.id != Some(&event.id)
            {
                let holds = held.id.unwrap_or("no id");
                let what = format!("{} was acknowledged at {place}, which holds {holds}", event.id);
                court.find(Kind::Inconsistent, what);
            }
            if rules.read_to_end
                && !tables.copies.contains_key(event.id.as_str())
                && !place.is_some_and(|place| reported_gone(tables, place))
            {
                let at = place.map_or_else(String::new, |place| format!(" at {place}"));
                court.find(Kind::Lost, format!("{} was acknowledged{at} and is not in the log", event.id));
            }
        }
    }
}

fn reported_gone(tables: &Tables<'_>, place: &Place) -> bool {
    tables.gone.iter().any(|(shard, first, end)| {
        shard.topic == place.topic
            && shard.partition == place.partition
            && (*first..*end).contains(&place.offset)
    })
}

/// The first copies of a key's events stand in the order of their numbers; staged ones in that of their effects.
fn order(tables: &Tables<'_>, rules: &Rules, court: &mut Court) {
    // Those of records may have one id twice, and have an order of their own (`delivered`).
    let staged: HashMap<&str, i64> = tables
        .effects
        .iter()
        .filter(|effect| rules.once(effect.group) != Some(Once::Record))
        .flat_map(|effect| effect.stages.iter().map(|id| (id.as_str(), effect.seq)))
        .collect();
    for (shard, records) in tables.records.iter().filter(|(shard, _)| rules.topics.contains(&shard.topic)) {
        // The two numberings of a key cannot be compared.
        let mut last: HashMap<(&str, bool), i128> = HashMap::new();
        let mut seen_ids = HashSet::new();
        for (offset, seen) in records {
            let (Some(id), Some(key)) = (seen.id, seen.key) else { continue };
            let sent = tables.sent.get(id).and_then(|sent| sent.first());
            let event = sent.and_then(|(op, index)| tables.ops.get(*op)?.events.get(*index));
            let number = match (event, staged.get(id)) {
                (Some(event), _) => i128::from(event.kseq),
                (None, Some(seq)) => i128::from(*seq),
                (None, None) => continue,
            };
            if !seen_ids.insert(id) {
                continue;
            }
            let newest = last.entry((key, event.is_some())).or_insert(i128::MIN);
            if number <= *newest {
                let what =
                    format!("{id}, number {number} of key {key}, stands at {shard}@{offset} behind {newest}");
                court.find(Kind::Reordered, what);
            }
            *newest = number.max(*newest);
        }
    }
}

/// A second copy needs a second call, of another incarnation, after one whose outcome is not known.
fn copies(tables: &Tables<'_>, court: &mut Court) {
    for (id, places) in tables.copies.iter().filter(|(_, places)| places.len() > 1) {
        let Some(sent) = tables.sent.get(id) else { continue };
        let mut calls: Vec<_> = sent.iter().filter_map(|(op, _)| tables.ops.get(*op)).collect();
        calls.sort_by_key(|op| op.at);
        let incarnations: HashSet<_> = calls.iter().map(|op| op.incarnation).collect();
        let unknown =
            calls.iter().rev().skip(1).filter(|op| op.outcome == Outcome::Unknown).count().saturating_add(1);
        if places.len() > unknown.min(incarnations.len()) {
            let places: Vec<_> = places.iter().map(ToString::to_string).collect();
            court.find(Kind::Doubled, format!("{id} is in the log at {}", places.join(" and ")));
        }
    }
}
