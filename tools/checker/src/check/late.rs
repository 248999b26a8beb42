//! Hand-overs whose deadline passed: what had begun, or ended and was not stored, comes again.

use std::collections::HashMap;

use super::tables::{Member, Run, Tables};
use crate::{observation::PartitionId, rules::Rules};

/// By process, group and partition: when it was asked for, and when it was given back.
pub(super) struct Late<'t, 'a> {
    tables: &'t Tables<'a>,
    all: HashMap<Member<'a>, Vec<(u64, u64)>>,
    /// What ended so long before it was asked for was stored by then, unless a fault was in the way.
    before: u64,
}

impl<'t, 'a> Late<'t, 'a> {
    pub(super) fn new(tables: &'t Tables<'a>, rules: &Rules) -> Self {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for (of, asked, gave) in tables.late_hand_overs(rules.hand_over) {
            all.entry(of).or_default().push((asked, gave));
        }
        Self { tables, all, before: rules.hand_over }
    }

    /// Whether such a hand-over of its partition, over by `until`, found the run under way, or just over.
    pub(super) fn met(&self, run: &Run<'a>, shard: &PartitionId, until: u64) -> bool {
        let ended = run.end.map_or(u64::MAX, |(at, _)| at);
        self.all.get(&(run.by, run.group, shard)).is_some_and(|all| {
            all.iter().filter(|(_, gave)| (run.from..=until).contains(gave)).any(|(asked, _)| {
                ended.saturating_add(self.before) >= *asked
                    || self.tables.fault_between(ended, *asked, |_| true)
            })
        })
    }
}
