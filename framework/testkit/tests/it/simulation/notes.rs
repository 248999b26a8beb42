//! What was seen, as the checker reads it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aqueduct_core::{Delivery, LogErrorKind, Record, log::PartitionId};
use aqueduct_runtime::PublishError;
use aqueduct_testkit::sim::{Answer, Observer, Process, Seen, VirtualClock, World, Written};
use checker::{Finished, History, Observation, Outcome, Place, Sent, Stalled, WriteKind};

use super::workload::{Echoed, Effect, GROUP, Stepped, Workload};

#[derive(Default)]
struct Gathered {
    history: History,
    runs: u64,
    /// Processes in which a partition stopped by policy, and the fault that stands for it.
    stopped: BTreeSet<String>,
    stopped_fault: Option<u64>,
    stops: u64,
}

/// Gathers a run's observations.
pub(crate) struct Notes(Mutex<Gathered>);

impl Notes {
    pub(crate) fn new(_: &Workload) -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap()
    }

    /// A number that no other row has.
    pub(crate) fn unique(&self) -> u64 {
        let mut gathered = self.gathered();
        gathered.runs += 1;
        gathered.runs
    }

    /// A handler starts; what it returns ends the run when it is dropped.
    pub(crate) fn start(
        self: &Arc<Self>,
        process: &Arc<Process>,
        clock: VirtualClock,
        delivery: &Delivery<Stepped>,
        generation: i64,
    ) -> Run {
        let mut gathered = self.gathered();
        gathered.runs += 1;
        let run = gathered.runs;
        let start = Observation::Start {
            run,
            group: GROUP.to_owned(),
            place: place(&delivery.position.partition, delivery.position.offset),
            generation,
            id: delivery.envelope.id.to_string(),
            key: Some(delivery.event.key.clone()),
            attempt: delivery.attempt,
            released: false,
        };
        if !process.is_killed() {
            gathered.history.push(micros(clock.elapsed()), process.name(), start);
        }
        Run { notes: Arc::clone(self), process: Arc::clone(process), clock, run, outcome: None }
    }

    /// The whole history: what was seen on the way, and what is there at the end.
    pub(crate) fn history(&self, world: &World, workload: &Workload) -> History {
        let mut at_end = Vec::new();
        for topic in world.topics().map(str::to_owned).collect::<Vec<_>>() {
            for record in world.records(&topic) {
                at_end.push(read(&topic, record));
            }
        }
        let effects: Vec<_> = if workload.exactly_once() {
            let echoed = |record: &Record| {
                let Echoed { effect, .. } = serde_json::from_slice(record.value().unwrap()).unwrap();
                Effect { stages: header(record, "ce_id").into_iter().collect(), ..effect.unwrap() }
            };
            (0..).zip(world.records("echoes").iter().map(echoed)).collect()
        } else if workload.effects() {
            let rows = world.rows().all::<Effect>("effect/").unwrap();
            rows.into_iter().map(|(_, seq, effect)| (seq, effect)).collect()
        } else {
            Vec::new()
        };
        for (seq, effect) in effects {
            let Effect { id, topic, partition, offset, generation, stages } = effect;
            let effect = Observation::Effect {
                group: GROUP.to_owned(),
                id,
                place: Place::new(topic, partition, offset),
                generation,
                seq: i64::try_from(seq).unwrap(),
                stages,
            };
            at_end.push((u64::MAX / 2, effect));
        }
        let mut history = self.gathered().history.clone();
        for (at, saw) in at_end {
            history.push(at, "observer", saw);
        }
        history
    }
}

/// A handler's run.
pub(crate) struct Run {
    notes: Arc<Notes>,
    process: Arc<Process>,
    clock: VirtualClock,
    run: u64,
    outcome: Option<Finished>,
}

impl Run {
    pub(crate) fn end(mut self, done: bool) {
        self.outcome = Some(if done { Finished::Done } else { Finished::Failed });
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.process.is_killed() {
            return;
        }
        let unwound = if std::thread::panicking() { Finished::Failed } else { Finished::Cancelled };
        let finish = Observation::Finish { run: self.run, outcome: self.outcome.unwrap_or(unwound) };
        self.notes.gathered().history.push(micros(self.clock.elapsed()), self.process.name(), finish);
    }
}

impl Observer for Notes {
    fn saw(&self, at: Duration, by: &str, seen: Seen<'_>) {
        let mut gathered = self.gathered();
        let saw = match seen {
            Seen::Publishing { call, incarnation, events } => {
                let events = events.iter().map(|event| Sent {
                    id: event.id.clone(),
                    topic: event.topic.clone(),
                    key: event.key.as_deref().map(text),
                    kseq: event.number,
                    crc: crc32fast::hash(&event.payload),
                });
                Observation::Invoke { op: call, incarnation, events: events.collect(), atomic: false }
            }
            Seen::Published { call, outcome } => Observation::Complete {
                op: call,
                outcome: outcome.map_or_else(published, |_| Outcome::Ok),
                places: outcome.map_or_else(
                    |_| Vec::new(),
                    |positions| positions.iter().map(|each| place(&each.partition, each.offset)).collect(),
                ),
            },
            Seen::Assigned { group, partition, generation, settled } => Observation::Assigned {
                group: group.to_owned(),
                shard: shard(partition),
                generation,
                settled,
            },
            Seen::Wrote { what, group, partition, generation, began, answer } => Observation::Write {
                kind: match what {
                    Written::Settled => WriteKind::Commit,
                    Written::Letter => WriteKind::Letter,
                    Written::Parked => WriteKind::Parked,
                    Written::EndMark => WriteKind::EndMark,
                },
                group: group.to_owned(),
                shard: shard(partition),
                generation,
                began: micros(began),
                outcome: match answer {
                    Answer::Done => Outcome::Ok,
                    Answer::Refused => Outcome::Fail,
                    Answer::Unknown => Outcome::Unknown,
                },
                order: None,
            },
            Seen::Settled { group, partition, offset, end } => {
                Observation::Settled { group: group.to_owned(), shard: shard(partition), offset, end }
            }
            Seen::Fault { number, kind } => {
                Observation::Fault { fault: number, kind: kind.to_owned(), target: by.to_owned() }
            }
            Seen::Healed { number } => Observation::Healed { fault: number },
            Seen::Status(status) => {
                gathered.note_stopped(at, by, status);
                Observation::Ready { ready: status.readiness().ready, stalls: stalls(status) }
            }
            Seen::Released { partition, key } => Observation::Release {
                group: GROUP.to_owned(),
                topic: partition.topic.to_string(),
                key: text(key),
            },
            // Whether a drain ended in time is looked at by the run itself.
            Seen::Draining { .. } => return,
            Seen::Drained => {
                gathered.goes_on(at, by);
                return;
            }
        };
        gathered.history.push(micros(at), by, saw);
    }
}

impl Gathered {
    /// A partition that stopped by policy stands, and is meant to: that is a fault of its own.
    fn note_stopped(&mut self, at: Duration, by: &str, status: &aqueduct_app::Status) {
        let stopped = status
            .subscriptions()
            .iter()
            .any(|each| each.partitions.values().any(|partition| partition.stopped.is_some()));
        if !stopped {
            self.goes_on(at, by);
            return;
        }
        self.stopped.insert(by.to_owned());
        if self.stopped_fault.is_none() {
            self.stops += 1;
            let fault = 1_000_000 + self.stops;
            self.stopped_fault = Some(fault);
            let (kind, target) = ("stopped".to_owned(), by.to_owned());
            self.history.push(micros(at), "run", Observation::Fault { fault, kind, target });
        }
    }

    fn goes_on(&mut self, at: Duration, by: &str) {
        self.stopped.remove(by);
        if self.stopped.is_empty()
            && let Some(fault) = self.stopped_fault.take()
        {
            self.history.push(micros(at), "run", Observation::Healed { fault });
        }
    }
}

fn published(error: &PublishError) -> Outcome {
    let kind = match error {
        PublishError::Encode(_) => return Outcome::Fail,
        PublishError::Log { source, .. } => source.kind(),
        // Some of it may be stored.
        _ => LogErrorKind::UnknownOutcome,
    };
    if kind == LogErrorKind::UnknownOutcome { Outcome::Unknown } else { Outcome::Fail }
}

fn read(topic: &str, record: &Record) -> (u64, Observation) {
    let at = micros(VirtualClock::since(record.timestamp()));
    let crc = crc32fast::hash(record.value().unwrap_or_default());
    if topic.ends_with(".dead") {
        let number = |name| header(record, name).and_then(|text| text.parse::<i64>().ok()).unwrap();
        let source = header(record, "aqueduct_dead_topic").unwrap();
        let place = Place::new(source, record.partition(), number("aqueduct_dead_offset"));
        return (at, Observation::Letter { group: GROUP.to_owned(), place, crc });
    }
    if topic.ends_with(".parked") {
        // The topic's id, and the offset.
        let offset: [u8; 8] = record.key().unwrap()[16..].try_into().unwrap();
        let source = topic.strip_prefix(GROUP).unwrap().trim_start_matches('.').strip_suffix(".parked");
        let place = Place::new(source.unwrap(), record.partition(), i64::from_be_bytes(offset));
        let group = GROUP.to_owned();
        return match record.value() {
            None => (at, Observation::EndMark { group, place }),
            Some(frame) => {
                let crc = crc32fast::hash(framed_value(frame));
                (at, Observation::Parked { group, place, crc })
            }
        };
    }
    let place = Place::new(topic, record.partition(), record.offset());
    let (id, key) = (header(record, "ce_id"), record.key().map(text));
    (u64::MAX / 2, Observation::Record { place, id, key, crc })
}

/// The value in the frame of a parked record, by docs/formats.md.
fn framed_value(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[0], 1);
    let length = usize::try_from(u32::from_le_bytes(frame[1..5].try_into().unwrap())).unwrap();
    let description: serde_json::Value = serde_json::from_slice(&frame[5..5 + length]).unwrap();
    let value = usize::try_from(description["value"].as_u64().unwrap()).unwrap();
    &frame[frame.len() - value..]
}

fn stalls(status: &aqueduct_app::Status) -> Vec<Stalled> {
    let mut stalls = Vec::new();
    for subscription in status.subscriptions() {
        let group = subscription.name.clone();
        if subscription.client.is_some() {
            stalls.push(Stalled { group: group.clone(), shard: None, kind: "client".to_owned() });
        }
        for (id, partition) in &subscription.partitions {
            if let Some(stall) = &partition.stall {
                let kind = format!("{:?}", stall.kind).to_lowercase();
                stalls.push(Stalled { group: group.clone(), shard: Some(shard(id)), kind });
            }
        }
    }
    stalls
}

fn header(record: &Record, name: &str) -> Option<String> {
    let mut found = None;
    record.visit_headers(&mut |header| {
        if header.name == name.as_bytes() {
            found = header.value.map(text);
        }
    });
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn place(partition: &PartitionId, offset: i64) -> Place {
    Place::new(partition.topic.as_str(), partition.partition, offset)
}

fn shard(partition: &PartitionId) -> checker::PartitionId {
    checker::PartitionId::new(partition.topic.as_str(), partition.partition)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}
