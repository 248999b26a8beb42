//! Every verdict has a history that earns it, and the same history repaired that does not.

mod log;
mod progress;
mod repeated;

use std::collections::BTreeMap;

use crate::{
    Finished, History, Kind, Line, Observation, Once, Outcome, PartitionId, Place, Rules, Sent, Stalled,
    Subscription, WriteKind,
};

const TOPIC: &str = "till.sales";
const GROUP: &str = "stock";
const SECOND: u64 = 1_000_000;

fn place(offset: i64) -> Place {
    Place::new(TOPIC, 0, offset)
}

fn shard() -> PartitionId {
    PartitionId::new(TOPIC, 0)
}

fn rules() -> Rules {
    let topics = || [TOPIC.to_owned()].into();
    let subscription =
        Subscription { group: GROUP.to_owned(), topics: topics(), effects: Some(Once::Event), window: 8 };
    Rules { subscriptions: vec![subscription], topics: topics(), ..Rules::default() }
}

fn sent(id: &str, key: &str, kseq: u64) -> Sent {
    Sent { id: id.to_owned(), topic: TOPIC.to_owned(), key: Some(key.to_owned()), kseq, crc: 7 }
}

fn record(id: &str, key: &str, offset: i64) -> Observation {
    Observation::Record { place: place(offset), id: Some(id.to_owned()), key: Some(key.to_owned()), crc: 7 }
}

fn start(run: u64, id: &str, key: &str, offset: i64) -> Observation {
    Observation::Start {
        run,
        group: GROUP.to_owned(),
        place: place(offset),
        generation: 1,
        id: id.to_owned(),
        key: Some(key.to_owned()),
        attempt: 1,
        released: false,
    }
}

fn finish(run: u64, outcome: Finished) -> Observation {
    Observation::Finish { run, outcome }
}

fn effect(id: &str, offset: i64, seq: i64) -> Observation {
    let (group, id, stages) = (GROUP.to_owned(), id.to_owned(), Vec::new());
    Observation::Effect { group, id, place: place(offset), generation: 1, seq, stages }
}

fn settled(offset: i64, end: i64) -> Observation {
    Observation::Settled { group: GROUP.to_owned(), shard: shard(), offset: Some(offset), end }
}

fn assigned(generation: i64, settled: i64) -> Observation {
    Observation::Assigned { group: GROUP.to_owned(), shard: shard(), generation, settled: Some(settled) }
}

fn fault(fault: u64, kind: &str) -> Observation {
    Observation::Fault { fault, kind: kind.to_owned(), target: String::new() }
}

/// Two events of key `k` at offsets 0 and 1, published, handled by `a.1` and settled.
fn good() -> History {
    let mut history = History::new();
    for (at, op, id) in [(10, 1, "e1"), (20, 2, "e2")] {
        let (incarnation, events) = ("p.1".to_owned(), vec![sent(id, "k", op)]);
        history.push(at, "p.1", Observation::Invoke { op, incarnation, events, atomic: false });
        let places = vec![place(i64::try_from(op).unwrap() - 1)];
        history.push(at + 5, "p.1", Observation::Complete { op, outcome: Outcome::Ok, places });
    }
    history.push(30, "a.1", assigned(1, 0));
    history.push(40, "a.1", start(1, "e1", "k", 0));
    history.push(50, "a.1", finish(1, Finished::Done));
    history.push(60, "a.1", start(2, "e2", "k", 1));
    history.push(70, "a.1", finish(2, Finished::Done));
    history.push(80, "observer", settled(2, 2));
    for (offset, id) in [(0, "e1"), (1, "e2")] {
        history.push(100, "observer", record(id, "k", offset));
        history.push(100, "observer", effect(id, offset, offset + 1));
    }
    history
}

/// Changes what was seen; none removes the line.
fn changed(mut history: History, mut change: impl FnMut(Line) -> Option<Line>) -> History {
    history.lines = history.lines.into_iter().filter_map(&mut change).collect();
    history
}

fn without(history: History, drop: impl Fn(&Observation) -> bool) -> History {
    changed(history, |line| (!drop(&line.saw)).then_some(line))
}

#[track_caller]
fn kinds(history: &History, rules: &Rules) -> Vec<Kind> {
    let report = history.check(rules);
    assert_eq!(report.void, None);
    let mut kinds: Vec<_> = report.verdicts.iter().map(|verdict| verdict.kind).collect();
    kinds.dedup();
    kinds
}

/// The history earns this verdict and no other.
#[track_caller]
fn earns(history: &History, kind: Kind) {
    assert_eq!(kinds(history, &rules()), [kind], "{}", history.check(&rules()));
}

#[track_caller]
fn clean(history: &History) {
    assert_eq!(kinds(history, &rules()), [], "{}", history.check(&rules()));
}

fn is_record_of(saw: &Observation, wanted: &str) -> bool {
    matches!(saw, Observation::Record { id: Some(id), .. } if id == wanted)
}

#[test]
fn a_good_history_is_clean() {
    clean(&good());
    let report = good().check(&rules());
    assert!(report.passed());
    assert_eq!(report.counts["acknowledged"], 2);
    assert_eq!(report.counts["duplicates"], 0);
    assert!(report.to_string().ends_with("verdict: kept"), "{report}");
}

#[test]
fn lost_in_the_log() {
    let gone_quietly = |history| {
        without(history, |saw| {
            is_record_of(saw, "e2") || matches!(saw, Observation::Effect { id, .. } if id == "e2")
        })
    };
    let mut history = gone_quietly(good());
    earns(&history, Kind::Lost);
    // Reported as gone, it is not lost silently.
    history.push(99, "observer", Observation::Gone { shard: shard(), first: 1, end: 2 });
    clean(&history);
}

#[test]
fn lost_on_delivery() {
    let never = without(good(), |saw| {
        matches!(saw, Observation::Start { run: 2, .. } | Observation::Settled { .. })
            || matches!(saw, Observation::Effect { id, .. } if id == "e2")
    });
    earns(&never, Kind::Lost);
    // Handled, and its effect is not there.
    earns(&without(good(), |saw| matches!(saw, Observation::Effect { id, .. } if id == "e2")), Kind::Lost);
    // Set aside it has ended.
    let mut letter = never;
    let (group, crc) = (GROUP.to_owned(), 7);
    letter.push(65, "observer", Observation::Letter { group, place: place(1), crc });
    clean(&letter);
}

#[test]
fn parked_is_not_lost_until_all_is_released() {
    let mut history = without(good(), |saw| {
        matches!(saw, Observation::Start { run: 2, .. })
            || matches!(saw, Observation::Effect { id, .. } if id == "e2")
    });
    let group = || GROUP.to_owned();
    history.push(65, "observer", Observation::Parked { group: group(), place: place(1), crc: 7 });
    clean(&history);
    let released = Rules { released: true, ..rules() };
    assert_eq!(kinds(&history, &released), [Kind::Lost]);
    history.push(90, "observer", Observation::EndMark { group: group(), place: place(1) });
    history.push(90, "observer", effect("e2", 1, 2));
    assert_eq!(kinds(&history, &released), []);
}

#[test]
fn phantom() {
    let unasked = without(good(), |saw| matches!(saw, Observation::Invoke { op: 2, .. }));
    earns(&unasked, Kind::Phantom);
    // Staged by an effect, it was asked for.
    let staged = changed(unasked, |mut line| {
        if let Observation::Effect { id, stages, .. } = &mut line.saw
            && id == "e1"
        {
            stages.push("e2".to_owned());
        }
        Some(line)
    });
    clean(&staged);
    let mut effect_of_nothing = good();
    effect_of_nothing.push(100, "observer", effect("e9", 9, 3));
    earns(&effect_of_nothing, Kind::Phantom);
    let mut letter_of_nothing = good();
    let (group, crc) = (GROUP.to_owned(), 7);
    letter_of_nothing.push(100, "observer", Observation::Letter { group, place: place(9), crc });
    earns(&letter_of_nothing, Kind::Phantom);
}

#[test]
fn reordered_on_delivery() {
    let swap = |history| {
        changed(history, |mut line| {
            if let Observation::Start { run, place, id, .. } = &mut line.saw {
                place.offset = 2 - i64::try_from(*run).unwrap();
                *id = format!("e{}", place.offset + 1);
            }
            Some(line)
        })
    };
    earns(&swap(good()), Kind::Reordered);
    // Records of two keys owe each other no order.
    let two_keys = changed(swap(good()), |mut line| {
        match &mut line.saw {
            Observation::Start { id, key, .. } | Observation::Record { id: Some(id), key, .. } => {
                *key = Some(id.clone());
            }
            Observation::Invoke { events, .. } => events[0].key = Some(events[0].id.clone()),
            _ => {}
        }
        Some(line)
    });
    clean(&two_keys);
}

#[test]
fn a_released_record_that_starts_behind_its_successor_is_reordered() {
    let parked_first = |successor_starts| {
        changed(good(), move |mut line| {
            match &mut line.saw {
                Observation::Start { run: 1, released, .. } => {
                    *released = true;
                    line.at = 64;
                }
                Observation::Finish { run: 1, .. } => line.at = 68,
                Observation::Start { run: 2, .. } => line.at = successor_starts,
                Observation::Finish { run: 2, .. } => line.at = successor_starts + 2,
                _ => {}
            }
            Some(line)
        })
    };
    earns(&parked_first(60), Kind::Reordered);
    clean(&parked_first(70));
}

#[test]
fn overlapping() {
    let first_ends = |end| {
        changed(good(), move |mut line| {
            if let Observation::Finish { run: 1, .. } = line.saw {
                line.at = end;
            }
            Some(line)
        })
    };
    earns(&first_ends(65), Kind::Overlapping);
    clean(&first_ends(60));
    // Without an end, and its process goes on.
    let endless = without(good(), |saw| matches!(saw, Observation::Finish { run: 1, .. }));
    let report = endless.check(&rules());
    assert_eq!(report.count(Kind::Overlapping), 1, "{report}");
}

#[test]
fn settled_too_far() {
    let sampled_at = |at, offset| {
        changed(good(), move |mut line| {
            if let Observation::Settled { .. } = line.saw {
                (line.at, line.saw) = (at, settled(offset, 2));
            }
            Some(line)
        })
    };
    earns(&sampled_at(65, 2), Kind::SettledTooFar);
    clean(&sampled_at(65, 1));
    clean(&sampled_at(70, 2));
    earns(&sampled_at(80, 3), Kind::SettledTooFar);
}

#[test]
fn a_failed_run_is_not_an_end() {
    let failed = changed(good(), |mut line| {
        if let Observation::Finish { run: 2, outcome } = &mut line.saw {
            *outcome = Finished::Failed;
        }
        Some(line)
    });
    let report = failed.check(&rules());
    assert_eq!(report.count(Kind::SettledTooFar), 1, "{report}");
    assert_eq!(report.count(Kind::Lost), 1, "{report}");
}

fn write(generation: i64, began: u64, outcome: Outcome) -> Observation {
    let (group, kind) = (GROUP.to_owned(), WriteKind::Commit);
    Observation::Write { kind, group, shard: shard(), generation, began, outcome, order: None }
}

#[test]
fn zombie_by_time() {
    let zombie = |began, outcome| {
        let mut history = good();
        history.push(200, "b.1", write(2, 190, Outcome::Ok));
        history.push(220, "a.1", write(1, began, outcome));
        history
    };
    earns(&zombie(210, Outcome::Ok), Kind::Zombie);
    // Refused it did nothing; begun before, it may have been first.
    clean(&zombie(210, Outcome::Fail));
    clean(&zombie(195, Outcome::Ok));
}

#[test]
fn zombie_by_the_order_of_the_database() {
    let owned = |of_first, of_second| {
        changed(good(), move |mut line| {
            if let Observation::Effect { id, generation, .. } = &mut line.saw {
                *generation = if id == "e1" { of_first } else { of_second };
            }
            Some(line)
        })
    };
    earns(&owned(2, 1), Kind::Zombie);
    clean(&owned(1, 2));
}

#[test]
fn a_run_in_which_too_little_happened_is_void() {
    let kills = |least| Rules { at_least: BTreeMap::from([("fault kill".to_owned(), least)]), ..rules() };
    let mut history = good();
    history.push(1, "chaos", fault(1, "kill"));
    let void = history.check(&kills(2)).void.unwrap();
    assert_eq!(void, "fault kill 1, at least 2 were to happen");
    assert!(history.check(&kills(1)).passed());
    let failing = |history| {
        changed(history, |mut line| {
            if let Observation::Complete { op: 2, outcome, .. } = &mut line.saw {
                *outcome = Outcome::Unknown;
            }
            Some(line)
        })
    };
    assert_eq!(
        failing(good()).check(&rules()).void.unwrap(),
        "1 of 2 publishes outside of faults were acknowledged"
    );
    assert_eq!(failing(history).check(&rules()).void, None);
}

#[test]
fn ok_after_a_failure_that_must_be_the_last_word() {
    let poisoned =
        Rules { poisoned: true, ok_outside: 0, ok_inside: 0, subscriptions: Vec::new(), ..rules() };
    let answers = |first, second| {
        changed(good(), move |mut line| {
            if let Observation::Complete { op, outcome, .. } = &mut line.saw {
                *outcome = if *op == 1 { first } else { second };
            }
            (!matches!(line.saw, Observation::Effect { .. })).then_some(line)
        })
    };
    use Outcome::{Ok, Unknown};
    assert_eq!(kinds(&answers(Unknown, Ok), &poisoned), [Kind::OkAfterFailure]);
    assert_eq!(kinds(&answers(Ok, Unknown), &poisoned), []);
    assert_eq!(kinds(&answers(Unknown, Unknown), &poisoned), []);
    // Another process opened the log anew.
    let other = changed(answers(Unknown, Ok), |mut line| {
        if let Observation::Invoke { op: 2, .. } | Observation::Complete { op: 2, .. } = line.saw {
            line.by = "p.2".to_owned();
        }
        Some(line)
    });
    assert_eq!(kinds(&other, &poisoned), []);
}
