//! Writes of an older generation after one of a newer.

use std::collections::{BTreeMap, HashMap};

use super::{
    Court,
    tables::{Tables, Written},
};
use crate::{observation::PartitionId, report::Kind};

pub(super) fn check(tables: &Tables<'_>, court: &mut Court) {
    let mut writes: BTreeMap<(&str, &PartitionId), Vec<&Written<'_>>> = BTreeMap::new();
    for write in &tables.writes {
        writes.entry((write.group, &write.shard)).or_default().push(write);
    }
    for ((group, shard), writes) in writes {
        by_time(group, shard, &writes, court);
        by_order(group, shard, &writes, court);
    }
}

/// A call that began after one of a newer generation had returned.
fn by_time(group: &str, shard: &PartitionId, writes: &[&Written<'_>], court: &mut Court) {
    let mut timed: Vec<_> = writes.iter().filter_map(|write| Some((write.within?, *write))).collect();
    timed.sort_by_key(|((began, _), _)| *began);
    let mut returned: Vec<_> = timed.iter().map(|((_, ended), write)| (*ended, write.generation)).collect();
    returned.sort_unstable();
    let mut returned = returned.into_iter().peekable();
    let mut newest = i64::MIN;
    for ((began, _), write) in timed {
        while let Some((_, generation)) = returned.next_if(|(ended, _)| *ended < began) {
            newest = newest.max(generation);
        }
        if write.generation < newest {
            court.find(Kind::Zombie, what(group, shard, write, newest));
        }
    }
}

/// A write behind one of a newer generation in the order that both have.
fn by_order(group: &str, shard: &PartitionId, writes: &[&Written<'_>], court: &mut Court) {
    let mut orders: HashMap<&str, Vec<(i64, &Written<'_>)>> = HashMap::new();
    for write in writes {
        if let Some((name, number)) = write.order {
            orders.entry(name).or_default().push((number, write));
        }
    }
    for order in orders.values_mut() {
        order.sort_by_key(|(number, _)| *number);
        let mut newest = i64::MIN;
        for (_, write) in order {
            if write.generation < newest {
                court.find(Kind::Zombie, what(group, shard, write, newest));
            }
            newest = newest.max(write.generation);
        }
    }
}

fn what(group: &str, shard: &PartitionId, write: &Written<'_>, newest: i64) -> String {
    format!(
        "{group}: {} wrote a {:?} of {shard} under generation {} after one of {newest}",
        write.by, write.kind, write.generation
    )
}
