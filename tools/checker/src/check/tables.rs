//! The observations of one run, by kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Court;
use crate::{
    history::History,
    observation::{Finished, Observation, Outcome, PartitionId, Place, Sent, Stalled, WriteKind},
    report::Kind,
};

pub(super) struct Op<'a> {
    pub(super) at: u64,
    pub(super) by: &'a str,
    /// When it returned, if it did.
    pub(super) returned: Option<u64>,
    pub(super) incarnation: &'a str,
    pub(super) events: &'a [Sent],
    pub(super) atomic: bool,
    pub(super) outcome: Outcome,
    pub(super) places: &'a [Place],
}

pub(super) struct Seen<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) crc: u32,
}

pub(super) struct Run<'a> {
    pub(super) by: &'a str,
    pub(super) group: &'a str,
    pub(super) place: &'a Place,
    pub(super) generation: i64,
    pub(super) id: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) attempt: u32,
    pub(super) released: bool,
    pub(super) from: u64,
    /// When and how it ended; none where its process was killed, or still runs.
    pub(super) end: Option<(u64, Finished)>,
}

pub(super) struct Assignment<'a> {
    pub(super) at: u64,
    pub(super) by: &'a str,
    pub(super) group: &'a str,
    pub(super) shard: &'a PartitionId,
    pub(super) generation: i64,
    pub(super) settled: Option<i64>,
}

pub(super) struct Written<'a> {
    pub(super) by: &'a str,
    pub(super) kind: WriteKind,
    pub(super) group: &'a str,
    pub(super) shard: PartitionId,
    pub(super) generation: i64,
    /// When the call ran; none where only its place in an order is known.
    pub(super) within: Option<(u64, u64)>,
    pub(super) order: Option<(&'a str, i64)>,
}

pub(super) struct Sample {
    pub(super) at: u64,
    pub(super) offset: Option<i64>,
    pub(super) end: i64,
}

pub(super) struct Effect<'a> {
    pub(super) group: &'a str,
    pub(super) id: &'a str,
    pub(super) place: &'a Place,
    pub(super) seq: i64,
    pub(super) stages: &'a [String],
}

pub(super) struct Fault<'a> {
    pub(super) kind: &'a str,
    pub(super) from: u64,
    pub(super) to: u64,
}

pub(super) struct Readiness<'a> {
    pub(super) at: u64,
    pub(super) ready: bool,
    pub(super) stalls: &'a [Stalled],
}

pub(super) struct Drain<'a> {
    pub(super) process: &'a str,
    pub(super) at: u64,
    pub(super) deadline: u64,
    /// When it ended, and how many unfinished deliveries it reported.
    pub(super) ended: Option<(u64, u64)>,
}

/// A copy of a record that was set aside: when, and its checksum.
pub(super) type Aside<'a> = BTreeMap<(&'a str, &'a Place), Vec<(u64, u32)>>;

/// A process, the group that it is in, and a partition that it has there.
pub(super) type Member<'a> = (&'a str, &'a str, &'a PartitionId);

#[derive(Default)]
pub(super) struct Tables<'a> {
    pub(super) ops: Vec<Op<'a>>,
    /// By event id: which op, which of its events.
    pub(super) sent: HashMap<&'a str, Vec<(usize, usize)>>,
    pub(super) records: BTreeMap<PartitionId, BTreeMap<i64, Seen<'a>>>,
    /// By event id: where its copies stand.
    pub(super) copies: HashMap<&'a str, Vec<&'a Place>>,
    pub(super) gone: Vec<(&'a PartitionId, i64, i64)>,
    pub(super) runs: Vec<Run<'a>>,
    pub(super) assignments: Vec<Assignment<'a>>,
    /// When a process gave a partition back.
    pub(super) revoked: HashMap<Member<'a>, Vec<u64>>,
    /// When a process was asked for a partition, and when it had given it back.
    pub(super) hand_overs: HashMap<Member<'a>, Vec<(u64, Option<u64>)>>,
    pub(super) writes: Vec<Written<'a>>,
    pub(super) refused: u64,
    pub(super) samples: BTreeMap<(&'a str, &'a PartitionId), Vec<Sample>>,
    pub(super) effects: Vec<Effect<'a>>,
    pub(super) letters: Aside<'a>,
    pub(super) parked: Aside<'a>,
    pub(super) end_marks: BTreeMap<(&'a str, &'a Place), u64>,
    /// Parked copies that are not in the log any more.
    pub(super) compacted: BTreeSet<(&'a str, &'a Place)>,
    /// When an operator asked for a key of a group's topic.
    pub(super) releases: BTreeMap<(&'a str, &'a str, &'a str), Vec<u64>>,
    pub(super) faults: Vec<Fault<'a>>,
    pub(super) readiness: BTreeMap<&'a str, Vec<Readiness<'a>>>,
    pub(super) drains: Vec<Drain<'a>>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(history: &'a History, court: &mut Court) -> Self {
        let mut tables = Self::default();
        let (mut ops, mut runs, mut faults) = (HashMap::new(), HashMap::new(), HashMap::new());
        // Files are read one after another: the second line of an operation follows its first, others need sorting.
        for line in &history.lines {
            let (at, by) = (line.at, line.by.as_str());
            match &line.saw {
                Observation::Invoke { op, incarnation, events, atomic } => {
                    ops.insert((by, *op), tables.ops.len());
                    for (index, event) in events.iter().enumerate() {
                        tables.sent.entry(&event.id).or_default().push((tables.ops.len(), index));
                    }
                    let (outcome, places, atomic) = (Outcome::Unknown, &[][..], *atomic);
                    let returned = None;
                    tables.ops.push(Op { at, by, returned, incarnation, events, atomic, outcome, places });
                }
                Observation::Complete { op, outcome, places } => {
                    if let Some(op) = ops.get(&(by, *op)).and_then(|index| tables.ops.get_mut(*index)) {
                        (op.outcome, op.places, op.returned) = (*outcome, places, Some(at));
                    }
                }
                Observation::Record { place, id, key, crc } => {
                    let seen = Seen { id: id.as_deref(), key: key.as_deref(), crc: *crc };
                    tables.record(place, seen, court);
                }
                Observation::Gone { shard, first, end } => tables.gone.push((shard, *first, *end)),
                Observation::Assigned { group, shard, generation, settled } => {
                    let (generation, settled) = (*generation, *settled);
                    tables.assignments.push(Assignment { at, by, group, shard, generation, settled });
                }
                Observation::Revoking { group, shard } => {
                    tables.hand_overs.entry((by, group, shard)).or_default().push((at, None));
                }
                Observation::Revoked { group, shard } => {
                    let asked = tables.hand_overs.get_mut(&(by, group.as_str(), shard));
                    if let Some((_, gave)) = asked.and_then(|all| all.last_mut()) {
                        gave.get_or_insert(at);
                    }
                    tables.revoked.entry((by, group, shard)).or_default().push(at);
                }
                Observation::Start { run, group, place, generation, id, key, attempt, released } => {
                    runs.insert((by, *run), tables.runs.len());
                    tables.runs.push(Run {
                        by,
                        group,
                        place,
                        generation: *generation,
                        id,
                        key: key.as_deref(),
                        attempt: *attempt,
                        released: *released,
                        from: at,
                        end: None,
                    });
                }
                Observation::Finish { run, outcome } => {
                    if let Some(run) = runs.get(&(by, *run)).and_then(|index| tables.runs.get_mut(*index)) {
                        run.end = Some((at, *outcome));
                    }
                }
                Observation::Write { kind, group, shard, generation, began, outcome, order } => match outcome
                {
                    Outcome::Ok => tables.writes.push(Written {
                        by,
                        kind: *kind,
                        group,
                        shard: shard.clone(),
                        generation: *generation,
                        within: Some((*began, at)),
                        order: order.as_ref().map(|(name, number)| (name.as_str(), *number)),
                    }),
                    Outcome::Fail => tables.refused += 1,
                    Outcome::Unknown => {}
                },
                Observation::Settled { group, shard, offset, end } => {
                    let sample = Sample { at, offset: *offset, end: *end };
                    tables.samples.entry((group, shard)).or_default().push(sample);
                }
                Observation::Effect { group, id, place, generation, seq, stages } => {
                    tables.effects.push(Effect { group, id, place, seq: *seq, stages });
                    tables.writes.push(Written {
                        by,
                        kind: WriteKind::Effect,
                        group,
                        shard: place.shard(),
                        generation: *generation,
                        within: None,
                        order: Some(("database", *seq)),
                    });
                }
                Observation::Letter { group, place, crc } => {
                    tables.letters.entry((group, place)).or_default().push((at, *crc));
                }
                Observation::Parked { group, place, crc } => {
                    tables.parked.entry((group, place)).or_default().push((at, *crc));
                }
                Observation::EndMark { group, place } => {
                    tables.end_marks.insert((group, place), at);
                }
                Observation::Release { group, topic, key } => {
                    tables.releases.entry((group, topic, key)).or_default().push(at);
                }
                Observation::Fault { fault, kind, target: _ } => {
                    faults.insert(*fault, tables.faults.len());
                    tables.faults.push(Fault { kind, from: at, to: u64::MAX });
                }
                Observation::Healed { fault } => {
                    if let Some(fault) = faults.get(fault).and_then(|index| tables.faults.get_mut(*index)) {
                        fault.to = at;
                    }
                }
                Observation::Ready { ready, stalls } => {
                    let sample = Readiness { at, ready: *ready, stalls };
                    tables.readiness.entry(by).or_default().push(sample);
                }
                Observation::Drain { process, deadline } => {
                    tables.drains.push(Drain { process, at, deadline: *deadline, ended: None });
                }
                Observation::Drained { process, unfinished } => {
                    if let Some(drain) = tables.drains.iter_mut().rev().find(|drain| drain.process == process)
                    {
                        drain.ended = Some((at, *unfinished));
                    }
                }
            }
        }
        tables.runs.sort_by_key(|run| run.from);
        tables.assignments.sort_by_key(|assignment| assignment.at);
        for samples in tables.samples.values_mut() {
            samples.sort_by_key(|sample| sample.at);
        }
        for copies in tables.letters.values_mut().chain(tables.parked.values_mut()) {
            copies.sort_unstable();
        }
        tables.infer_releases();
        tables
    }

    /// A handler need not know that its record was parked: what starts after its copy was, is released. Compaction may
    /// have removed a copy that has its end mark; since when it was parked is then not known.
    fn infer_releases(&mut self) {
        let marked = self.end_marks.keys().filter(|of| !self.parked.contains_key(*of));
        self.compacted = marked.copied().collect();
        for run in &mut self.runs {
            let of = (run.group, run.place);
            let copies = self.parked.get(&of).into_iter().flatten().map(|(at, _)| *at);
            run.released |= self.compacted.contains(&of) || copies.min().is_some_and(|at| at <= run.from);
        }
    }

    fn record(&mut self, place: &'a Place, seen: Seen<'a>, court: &mut Court) {
        let records = self.records.entry(place.shard()).or_default();
        if let Some(before) = records.get(&place.offset) {
            if (before.id, before.key, before.crc) != (seen.id, seen.key, seen.crc) {
                let (one, other) = (before.id.unwrap_or("no id"), seen.id.unwrap_or("no id"));
                court.find(Kind::Inconsistent, format!("{place} was read as {one} and as {other}"));
            }
            return;
        }
        if let Some(id) = seen.id {
            self.copies.entry(id).or_default().push(place);
        }
        records.insert(place.offset, seen);
    }

    /// Hand-overs that took longer than `limit`: of whom, and from when to when.
    pub(super) fn late_hand_overs(&self, limit: u64) -> impl Iterator<Item = (Member<'a>, u64, u64)> {
        self.hand_overs.iter().flat_map(move |(of, all)| {
            let ended = all.iter().filter_map(|(asked, gave)| Some((*asked, (*gave)?)));
            ended.filter(move |(asked, gave)| gave - asked >= limit).map(|(asked, gave)| (*of, asked, gave))
        })
    }

    /// When the owner of a run gave its partition back.
    pub(super) fn gave_back(&self, run: &Run<'a>, shard: &PartitionId) -> Option<u64> {
        let all = self.hand_overs.get(&(run.by, run.group, shard))?;
        all.iter().filter_map(|(_, gave)| *gave).find(|gave| *gave >= run.from)
    }

    /// The key of the record at a place.
    pub(super) fn key_of(&self, place: &Place) -> Option<&'a str> {
        self.records.get(&place.shard())?.get(&place.offset)?.key
    }

    /// Whether a fault that `counts` was open at some moment between two.
    pub(super) fn fault_between(&self, from: u64, to: u64, counts: impl Fn(&str) -> bool) -> bool {
        self.faults.iter().any(|fault| fault.from <= to && fault.to >= from && counts(fault.kind))
    }
}
