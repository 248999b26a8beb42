//! The gate, the ring and the lanes under many schedules of the threads that meet in them. Shuttle chooses the next
//! thread at every lock, atomic and channel; a schedule that fails is printed and can be replayed.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex as Plain},
};

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{Outcomes, PartitionId, Position, Producer, Receipt},
    record::OwnedRecord,
};
use shuttle::{future::block_on, sync::mpsc, thread};
use tokio::time::Instant;

use crate::{
    gate::{Admission, BATCH_RECORDS, Gate, Told},
    lanes::{Head, KeyBytes, LaneId, Lanes, Origin, State},
    ring::Ring,
    sync::{AtomicI64, Mutex, Ordering},
};

const SCHEDULES: usize = 10_000;

/// Half of the schedules at random, half with few changes of thread at the worst places.
fn check(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, SCHEDULES / 2);
    shuttle::check_pct(test, SCHEDULES / 2, 3);
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

struct Answer {
    outcomes: Outcomes,
    failed: Vec<String>,
    receipt: Box<dyn Receipt>,
}

/// A log that stores at once and answers later, from a thread of its own, in order.
struct SlowLog {
    answers: Mutex<mpsc::Sender<Answer>>,
    seen: Plain<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    stored: Vec<(String, u32)>,
    in_flight: usize,
    most: usize,
    /// Keys with a failure that was not answered yet, as every producer holds them.
    failed: Vec<String>,
}

impl fmt::Debug for SlowLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowLog").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Producer for SlowLog {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        let (mut outcomes, mut failed) = (Outcomes::new(), Vec::new());
        // Locked for the whole: what is enqueued first is answered first.
        let answers = self.answers.lock().unwrap();
        {
            let mut seen = self.seen.lock().unwrap();
            seen.in_flight += batch.len();
            seen.most = seen.most.max(seen.in_flight);
            for record in batch {
                let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                let value = record.value.unwrap();
                let outcome = if seen.failed.contains(&key) {
                    Err(LogError::new(LogErrorKind::Held, key.clone()))
                } else if value.is_empty() {
                    Err(LogError::new(LogErrorKind::Storage, "as asked"))
                } else {
                    seen.stored.push((key.clone(), u32::from(value[0])));
                    let offset = i64::try_from(seen.stored.len()).unwrap();
                    Ok(Position { partition: PartitionId { topic: topic(), partition: 0 }, offset })
                };
                if outcome.is_err() {
                    seen.failed.push(key.clone());
                    failed.push(key);
                }
                outcomes.push(outcome);
            }
        }
        answers.send(Answer { outcomes, failed, receipt }).unwrap();
    }
}

impl SlowLog {
    /// A gate before a log, whose answers end when the gate is gone.
    fn start() -> (Arc<Gate>, Arc<Self>, mpsc::Sender<Answer>, thread::JoinHandle<()>) {
        let (answers, asked) = mpsc::channel::<Answer>();
        let log = Arc::new(Self { answers: Mutex::new(answers.clone()), seen: Plain::default() });
        let answering = Arc::clone(&log);
        let thread = thread::spawn(move || {
            while let Ok(Answer { outcomes, failed, receipt }) = asked.recv() {
                if outcomes.is_empty() {
                    return;
                }
                answering.seen.lock().unwrap().in_flight -= outcomes.len();
                receipt.complete(outcomes);
                let mut seen = answering.seen.lock().unwrap();
                for key in failed {
                    let at = seen.failed.iter().position(|held| *held == key).unwrap();
                    seen.failed.remove(at);
                }
            }
        });
        (Gate::new(Arc::clone(&log) as _), log, answers, thread)
    }
}

/// Ends the thread that answers.
fn stop(answers: &mpsc::Sender<Answer>) {
    let receipt = Box::new(|_: Outcomes| {});
    answers.send(Answer { outcomes: Vec::new(), failed: Vec::new(), receipt }).unwrap();
}

/// An event of a key; the number 0 is one that the log refuses.
fn event(key: &str, number: u8) -> NewRecord {
    let value = if number == 0 { Vec::new() } else { vec![number] };
    NewRecord {
        topic: topic(),
        partition: None,
        key: Some(key.to_owned().into()),
        headers: Headers::default(),
        value: Some(value.into()),
        timestamp: Timestamp::default(),
    }
}

fn answer(admission: Admission) -> Vec<Result<i64, LogErrorKind>> {
    let outcomes = match block_on(admission) {
        Told::One(outcome) => vec![outcome],
        Told::All(outcomes) => outcomes,
    };
    outcomes
        .into_iter()
        .map(|outcome| outcome.map(|position| position.offset).map_err(|error| error.kind()))
        .collect()
}

/// P2, R1. Red when a place is taken after the call, the bound is not looked at, an answer goes to another caller, or a
/// caller is not woken (a deadlock, which shuttle reports).
#[test]
fn publishers_keep_their_order_and_each_is_answered() {
    check(|| {
        let (gate, log, answers, answering) = SlowLog::start();
        let publishers: Vec<_> = ["a", "b", "c"]
            .map(|key| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let one = gate.enter([event(key, 1)]);
                    // A batch in one place; nobody waits for it.
                    drop(gate.enter([event(key, 2), event(key, 3)]));
                    let four = gate.enter([event(key, 4)]);
                    let five = gate.enter([event(key, 5), event(key, 6)]);
                    let (four, one, five) = (answer(four), answer(one), answer(five));
                    [one, four, five].concat().into_iter().map(Result::unwrap).collect::<Vec<_>>()
                })
            })
            .into_iter()
            .collect();
        let places: Vec<Vec<i64>> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
        stop(&answers);
        answering.join().unwrap();
        let seen = log.seen.lock().unwrap();
        assert!(seen.most <= 2 * BATCH_RECORDS, "{} in flight", seen.most);
        for (key, places) in ["a", "b", "c"].into_iter().zip(places) {
            let of_key: Vec<u32> =
                seen.stored.iter().filter(|(stored, _)| stored == key).map(|(_, number)| *number).collect();
            assert_eq!(of_key, [1, 2, 3, 4, 5, 6], "{key}");
            let said = places.iter().map(|at| seen.stored[usize::try_from(at - 1).unwrap()].1);
            assert_eq!(said.collect::<Vec<_>>(), [1, 4, 5, 6], "places of {key}");
        }
    });
}

/// P2, R1. Red when a key that failed is not held until its caller has seen it, stays held afterwards, or is held for a
/// caller that went away.
#[test]
fn a_key_is_held_until_its_caller_has_seen_the_failure() {
    check(|| {
        let (gate, log, answers, answering) = SlowLog::start();
        let seeing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let failed = gate.enter([event("a", 0)]);
                let behind = [gate.enter([event("a", 1)]), gate.enter([event("a", 2)])];
                for behind in behind {
                    assert_eq!(answer(behind), [Err(LogErrorKind::Held)]);
                }
                let still = gate.enter([event("a", 3)]);
                assert_eq!(answer(still), [Err(LogErrorKind::Held)]);
                assert_eq!(answer(failed), [Err(LogErrorKind::Storage)]);
                // This log holds the key a moment longer than the gate, until it has given the receipt.
                while answer(gate.enter([event("a", 4)]))[0].is_err() {
                    thread::yield_now();
                }
            })
        };
        let beside = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let both = [gate.enter([event("b", 1)]), gate.enter([event("b", 2)])];
                assert!(both.into_iter().all(|one| answer(one)[0].is_ok()), "another key goes on");
            })
        };
        let gone = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                drop(gate.enter([event("c", 0)]));
                // Held at first, maybe; never for good.
                while answer(gate.enter([event("c", 1)]))[0].is_err() {
                    thread::yield_now();
                }
            })
        };
        [seeing, beside, gone].into_iter().for_each(|thread| thread.join().unwrap());
        stop(&answers);
        answering.join().unwrap();
        let mut stored = log.seen.lock().unwrap().stored.clone();
        stored.sort();
        let expected = [("a", 4), ("b", 1), ("b", 2), ("c", 1)];
        assert_eq!(stored, expected.map(|(key, number)| (key.to_owned(), number)));
    });
}

/// P3. Red when a settler can read an offset above a delivery that has not ended, or the last end is not published.
#[test]
fn a_settler_never_sees_an_offset_above_an_open_delivery() {
    const OFFSETS: [i64; 6] = [3, 4, 7, 8, 20, 21];
    check(|| {
        // As `Progress` has it, and as the partition's task and the settler use it.
        let shared = Arc::new(AtomicI64::new(3));
        let ended = Arc::new(Plain::new(HashSet::new()));
        let (done, ends) = mpsc::channel::<u64>();
        let handlers: Vec<_> = (0..2)
            .map(|first| {
                let (ended, done) = (Arc::clone(&ended), done.clone());
                thread::spawn(move || {
                    for index in (first..OFFSETS.len()).step_by(2) {
                        thread::yield_now();
                        ended.lock().unwrap().insert(OFFSETS[index]);
                        done.send(u64::try_from(index).unwrap()).unwrap();
                    }
                })
            })
            .collect();
        drop(done);
        let partition = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut ring = Ring::new(3);
                for offset in OFFSETS {
                    ring.push(offset);
                }
                ring.pass(25);
                while let Ok(sequence) = ends.recv() {
                    ring.end(sequence);
                    shared.store(ring.settled(), Ordering::Release);
                }
            })
        };
        let settler = {
            let (shared, ended) = (Arc::clone(&shared), Arc::clone(&ended));
            thread::spawn(move || {
                let mut last = 3;
                for _ in 0..6 {
                    let settled = shared.load(Ordering::Acquire);
                    let ended = ended.lock().unwrap();
                    assert!(settled >= last, "{settled} after {last}");
                    assert!(OFFSETS.iter().all(|offset| *offset >= settled || ended.contains(offset)));
                    last = settled;
                }
            })
        };
        handlers.into_iter().for_each(|thread| thread.join().unwrap());
        [partition, settler].into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.load(Ordering::Acquire), 25);
    });
}

fn record(key: Option<&'static str>, offset: i64) -> Record {
    Record::from(OwnedRecord {
        topic: topic(),
        partition: 0,
        offset,
        timestamp: Timestamp::default(),
        key: key.map(Into::into),
        headers: Headers::default(),
        value: None,
    })
}

/// P2. Red when a lane begins its next record before the last has ended, goes on with another than the first, or is
/// forgotten. Attempts end on other threads, at any time, and some fail at first.
#[test]
fn lanes_keep_each_keys_order_whenever_attempts_end() {
    const KEYS: [Option<&str>; 9] =
        [Some("a"), Some("b"), Some("a"), None, Some("a"), Some("b"), Some("a"), None, Some("b")];
    check(|| {
        let running = Arc::new(Plain::new(HashSet::new()));
        let (ended, ends) = mpsc::channel::<(LaneId, i64, bool)>();
        let handlers: Vec<_> = (0..3)
            .map(|_| {
                let (begin, begun) = mpsc::channel::<(LaneId, Option<&'static str>, i64, u32)>();
                let (ended, running) = (ended.clone(), Arc::clone(&running));
                let thread = thread::spawn(move || {
                    while let Ok((lane, key, offset, attempt)) = begun.recv() {
                        let alone = key.is_none_or(|key| running.lock().unwrap().insert(key));
                        assert!(alone, "two records of {key:?} at once");
                        thread::yield_now();
                        if let Some(key) = key {
                            running.lock().unwrap().remove(key);
                        }
                        ended.send((lane, offset, offset % 3 != 0 || attempt > 1)).unwrap();
                    }
                });
                (begin, thread)
            })
            .collect();
        let mut lanes = Lanes::default();
        let (mut next, mut in_flight, mut turn) = (0, 0, 0);
        let mut seen: BTreeMap<Option<&str>, Vec<i64>> = BTreeMap::new();
        while next < KEYS.len() || in_flight > 0 || lanes.iter().next().is_some() {
            if next < KEYS.len() {
                let (key, offset) = (KEYS[next], i64::try_from(next).unwrap());
                let sequence = u64::try_from(next).unwrap();
                match key.and_then(|key| lanes.of_key(key.as_bytes())) {
                    Some(id) => lanes.get_mut(id).unwrap().queue.push_back((sequence, record(key, offset))),
                    None => {
                        let head = Head::new(record(key, offset), Origin::Live(sequence));
                        let id = lanes.open(key.map(|key| KeyBytes::from(key.as_bytes())), head);
                        lanes.make_ready(id);
                    }
                }
                next += 1;
            }
            lanes.wake_due(Instant::now());
            while let Some(id) = lanes.next_ready() {
                let lane = lanes.get_mut(id).unwrap();
                lane.head.state = State::Running;
                lane.head.attempts += 1;
                let offset = lane.head.record.offset();
                let key = KEYS[usize::try_from(offset).unwrap()];
                handlers[turn % 3].0.send((id, key, offset, lane.head.attempts)).unwrap();
                (turn, in_flight) = (turn + 1, in_flight + 1);
            }
            let Ok((id, offset, done)) =
                (if next < KEYS.len() { ends.try_recv().map_err(drop) } else { ends.recv().map_err(drop) })
            else {
                continue;
            };
            in_flight -= 1;
            if done {
                seen.entry(KEYS[usize::try_from(offset).unwrap()]).or_default().push(offset);
                lanes.advance(id);
            } else {
                lanes.back_off(id, Instant::now(), "not yet".to_owned(), false);
            }
        }
        handlers.into_iter().for_each(|(begin, thread)| {
            drop(begin);
            thread.join().unwrap();
        });
        let unkeyed = seen.remove(&None).unwrap();
        assert_eq!(unkeyed.into_iter().collect::<HashSet<_>>(), HashSet::from([3, 7]));
        assert_eq!(seen, BTreeMap::from([(Some("a"), vec![0, 2, 4, 6]), (Some("b"), vec![1, 5, 8])]));
    });
}
