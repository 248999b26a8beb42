//! Every verdict has a history that earns it, and the same history repaired that does not.

use std::collections::BTreeMap;

use crate::{
    Finished, History, Kind, Line, Observation, Outcome, PartitionId, Place, Rules, Sent, Stalled,
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
    let subscription = Subscription { group: GROUP.to_owned(), topics: topics(), effects: true, window: 8 };
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
fn staged_events_reach_the_log() {
    let staging = |history: History, staged: &str| {
        changed(history, |mut line| {
            if let Observation::Effect { id, stages, .. } = &mut line.saw
                && id == "e1"
            {
                stages.push(staged.to_owned());
            }
            Some(line)
        })
    };
    earns(&staging(good(), "e3"), Kind::Lost);
    clean(&staging(good(), "e2"));
}

#[test]
fn aborted() {
    let failed = changed(good(), |mut line| {
        if let Observation::Complete { op: 2, outcome, .. } = &mut line.saw {
            *outcome = Outcome::Fail;
        }
        Some(line)
    });
    let lenient = Rules { ok_outside: 0, ok_inside: 0, ..rules() };
    assert_eq!(kinds(&failed, &lenient), [Kind::Aborted]);
    let unknown = without(failed, |saw| matches!(saw, Observation::Complete { op: 2, .. }));
    assert_eq!(kinds(&unknown, &lenient), []);
}

#[test]
fn torn() {
    let both = |atomic| {
        let mut history = History::new();
        let events = vec![sent("e1", "k", 1), sent("e2", "k", 2)];
        let incarnation = "p.1".to_owned();
        history.push(10, "p.1", Observation::Invoke { op: 1, incarnation, events, atomic });
        history.push(20, "observer", record("e1", "k", 0));
        history
    };
    let only_the_log = Rules { subscriptions: Vec::new(), ok_outside: 0, ok_inside: 0, ..rules() };
    assert_eq!(kinds(&both(true), &only_the_log), [Kind::Torn]);
    assert_eq!(kinds(&both(false), &only_the_log), []);
    let mut whole = both(true);
    whole.push(20, "observer", record("e2", "k", 1));
    assert_eq!(kinds(&whole, &only_the_log), []);
}

#[test]
fn reordered_in_the_log() {
    let numbered = |first, second| {
        changed(good(), move |mut line| {
            if let Observation::Invoke { op, events, .. } = &mut line.saw {
                events[0].kseq = if *op == 1 { first } else { second };
            }
            Some(line)
        })
    };
    earns(&numbered(2, 1), Kind::Reordered);
    // A hole, where a publish failed, is no inversion.
    clean(&numbered(2, 4));
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
fn doubled_effect() {
    let mut history = good();
    history.push(100, "observer", effect("e2", 1, 3));
    earns(&history, Kind::Doubled);
    clean(&good());
}

fn second_run(generation: i64, attempt: u32) -> Observation {
    let mut again = start(3, "e2", "k", 1);
    if let Observation::Start { generation: of, attempt: number, .. } = &mut again {
        (*of, *number) = (generation, attempt);
    }
    again
}

/// `e2` once more, by `b.1` under generation 2, which began at `from`.
fn handed_over(from: i64) -> History {
    let mut history = without(good(), |saw| matches!(saw, Observation::Settled { .. }));
    history.push(72, "b.1", assigned(2, from));
    history.push(75, "b.1", second_run(2, 1));
    history.push(76, "b.1", finish(3, Finished::Done));
    history
}

#[test]
fn a_duplicate_needs_a_fault() {
    earns(&handed_over(1), Kind::Doubled);
    let mut history = handed_over(1);
    history.push(71, "chaos", fault(1, "kill"));
    history.push(74, "chaos", Observation::Healed { fault: 1 });
    clean(&history);
    assert_eq!(history.check(&rules()).counts["duplicates"], 1);
    // A fault that was over before explains nothing.
    let mut before = handed_over(1);
    before.push(51, "chaos", fault(1, "kill"));
    before.push(59, "chaos", Observation::Healed { fault: 1 });
    earns(&before, Kind::Doubled);
    // Given up by its owner, it was to come again.
    let given_up = changed(handed_over(1), |mut line| {
        if let Observation::Finish { run: 2, outcome } = &mut line.saw {
            *outcome = Finished::Cancelled;
        }
        Some(line)
    });
    clean(&given_up);
}

#[test]
fn a_duplicate_stays_above_the_settled_offset_and_in_the_window() {
    let mut below = handed_over(2);
    below.push(71, "chaos", fault(1, "kill"));
    earns(&below, Kind::Doubled);
    let mut far = handed_over(0);
    far.push(71, "chaos", fault(1, "kill"));
    clean(&far);
    let mut small = rules();
    small.subscriptions[0].window = 1;
    assert_eq!(kinds(&far, &small), [Kind::Doubled]);
}

/// The window of a woken owner counts from what it had settled when it was replaced, not from where it once began.
#[test]
fn an_older_owner_that_wakes_repeats_a_window_above_what_it_had_settled() {
    let woken = |settled| {
        let mut history = without(good(), |saw| matches!(saw, Observation::Settled { .. }));
        // `b.1` ran `e2` first; `a.1` was stopped before it.
        history = without(history, |saw| {
            matches!(saw, Observation::Start { run: 2, .. } | Observation::Finish { run: 2, .. })
        });
        history.push(52, "chaos", fault(1, "pause"));
        history.push(54, "b.1", assigned(2, settled));
        history.push(55, "b.1", second_run(2, 1));
        history.push(56, "b.1", finish(3, Finished::Done));
        history.push(60, "a.1", start(2, "e2", "k", 1));
        history.push(61, "a.1", finish(2, Finished::Done));
        history
    };
    let mut small = rules();
    small.subscriptions[0].window = 1;
    assert_eq!(kinds(&woken(1), &small), []);
    assert_eq!(kinds(&woken(0), &small), [Kind::Doubled]);
}

#[test]
fn a_retry_counts_its_attempt() {
    let retried = |attempt| {
        let mut history = changed(good(), |mut line| {
            match &mut line.saw {
                Observation::Finish { run: 2, outcome } => *outcome = Finished::Failed,
                Observation::Settled { .. } => line.at = 90,
                _ => {}
            }
            Some(line)
        });
        history.push(75, "a.1", second_run(1, attempt));
        history.push(78, "a.1", finish(3, Finished::Done));
        history
    };
    earns(&retried(1), Kind::Doubled);
    earns(&retried(3), Kind::Doubled);
    clean(&retried(2));
}

#[test]
fn the_same_owner_repeats_only_what_its_database_refused() {
    let repeated = || {
        let mut history = good();
        history.push(75, "a.1", second_run(1, 1));
        history.push(76, "a.1", finish(3, Finished::Done));
        history
    };
    earns(&repeated(), Kind::Doubled);
    let mut history = repeated();
    history.push(65, "chaos", fault(1, "database"));
    earns(&history, Kind::Doubled);
    let repeating = Rules { repeating: ["database".to_owned()].into(), ..rules() };
    assert_eq!(kinds(&history, &repeating), []);
}

#[test]
fn a_second_copy_in_the_log_needs_an_unknown_outcome_and_another_incarnation() {
    let twice = |first, incarnation: &str| {
        let mut history = History::new();
        for (at, op, outcome, incarnation) in [(10, 1, first, "p.1"), (20, 2, Outcome::Ok, incarnation)] {
            let (incarnation, events) = (incarnation.to_owned(), vec![sent("e1", "k", 1)]);
            history.push(at, "p", Observation::Invoke { op, incarnation, events, atomic: false });
            history.push(at + 1, "p", Observation::Complete { op, outcome, places: Vec::new() });
        }
        history.push(30, "observer", record("e1", "k", 0));
        history.push(30, "observer", record("e1", "k", 1));
        history
    };
    let only_the_log = Rules { subscriptions: Vec::new(), ok_outside: 0, ok_inside: 0, ..rules() };
    assert_eq!(kinds(&twice(Outcome::Ok, "p.2"), &only_the_log), [Kind::Doubled]);
    assert_eq!(kinds(&twice(Outcome::Unknown, "p.1"), &only_the_log), [Kind::Doubled]);
    assert_eq!(kinds(&twice(Outcome::Unknown, "p.2"), &only_the_log), []);
}

#[test]
fn a_second_parked_copy_needs_another_try() {
    let parked = || {
        let mut history = good();
        for at in [71, 75] {
            let (group, crc) = (GROUP.to_owned(), 7);
            history.push(at, "observer", Observation::Parked { group, place: place(1), crc });
        }
        history.push(90, "observer", Observation::EndMark { group: GROUP.to_owned(), place: place(1) });
        history
    };
    earns(&parked(), Kind::Doubled);
    let release = |key: &str| {
        let (group, topic, key) = (GROUP.to_owned(), TOPIC.to_owned(), key.to_owned());
        let mut history = parked();
        history.push(73, "operator", Observation::Release { group, topic, key });
        history
    };
    clean(&release("k"));
    earns(&release("another"), Kind::Doubled);
}

#[test]
fn two_letters_need_a_fault() {
    let letters = || {
        let mut history = good();
        for at in [71, 75] {
            let (group, crc) = (GROUP.to_owned(), 7);
            history.push(at, "observer", Observation::Letter { group, place: place(1), crc });
        }
        history
    };
    earns(&letters(), Kind::Doubled);
    let mut explained = letters();
    explained.push(72, "chaos", fault(1, "kill"));
    clean(&explained);
}

#[test]
fn inconsistent() {
    let mut history = good();
    let other =
        Observation::Record { place: place(1), id: Some("e2".to_owned()), key: Some("k".to_owned()), crc: 8 };
    history.push(101, "observer", other.clone());
    earns(&history, Kind::Inconsistent);
    // What is in the log is not what was published.
    earns(
        &changed(good(), |mut line| {
            if is_record_of(&line.saw, "e2") {
                line.saw = other.clone();
            }
            Some(line)
        }),
        Kind::Inconsistent,
    );
    let mut same = good();
    same.push(101, "observer", record("e2", "k", 1));
    clean(&same);
    let letter = |crc| {
        let mut history = good();
        history.push(75, "o", Observation::Letter { group: GROUP.to_owned(), place: place(1), crc });
        history
    };
    earns(&letter(8), Kind::Inconsistent);
    clean(&letter(7));
}

#[test]
fn acknowledged_where_another_record_is() {
    let at = |offset| {
        changed(good(), move |mut line| {
            if let Observation::Complete { op: 2, places, .. } = &mut line.saw {
                *places = vec![place(offset)];
            }
            Some(line)
        })
    };
    earns(&at(0), Kind::Inconsistent);
    clean(&at(1));
}

/// Nothing ends between the first sample and the last, `seconds` apart, and there is lag.
fn standing(seconds: u64) -> History {
    let mut history = good();
    for second in 0..=seconds {
        history.push(1_000 + second * SECOND, "observer", settled(2, 3));
    }
    history
}

#[test]
fn stuck() {
    earns(&standing(31), Kind::Stuck);
    clean(&standing(29));
    let mut explained = standing(31);
    explained.push(900 + 10 * SECOND, "chaos", fault(1, "outage"));
    explained.push(900 + 20 * SECOND, "chaos", Observation::Healed { fault: 1 });
    clean(&explained);
    // The fault is over, and it still stands.
    let mut still = standing(60);
    still.push(900 + 10 * SECOND, "chaos", fault(1, "outage"));
    still.push(900 + 20 * SECOND, "chaos", Observation::Healed { fault: 1 });
    earns(&still, Kind::Stuck);
    let mut moves = standing(31);
    moves.push(15 * SECOND, "a.1", start(9, "e3", "k3", 2));
    moves.push(15 * SECOND + 1, "a.1", finish(9, Finished::Failed));
    clean(&moves);
    let idle = changed(standing(31), |mut line| {
        if let Observation::Settled { end, .. } = &mut line.saw {
            *end = 2;
        }
        Some(line)
    });
    clean(&idle);
}

#[test]
fn lying_readiness() {
    let ready = |ready, named: bool| {
        let mut history = standing(50);
        history.push(999, "chaos", fault(1, "poison"));
        let stall = Stalled { group: GROUP.to_owned(), shard: Some(shard()), kind: "key".to_owned() };
        let stalls = if named { vec![stall] } else { Vec::new() };
        for second in 36..50 {
            let stalls = stalls.clone();
            history.push(2_000 + second * SECOND, "a.1", Observation::Ready { ready, stalls });
        }
        history
    };
    earns(&ready(true, false), Kind::LyingReadiness);
    clean(&ready(true, true));
    clean(&ready(false, false));
}

#[test]
fn not_ready_without_reason() {
    let unready = |seconds| {
        let mut history = good();
        for second in 0..=seconds {
            let ready = second == 0;
            history.push(second * SECOND, "a.1", Observation::Ready { ready, stalls: Vec::new() });
        }
        history
    };
    earns(&unready(8), Kind::LyingReadiness);
    clean(&unready(5));
    let mut explained = unready(8);
    explained.push(100, "chaos", fault(1, "outage"));
    clean(&explained);
}

fn drained(took: u64, unfinished: u64) -> History {
    let mut history = good();
    let process = || "a.1".to_owned();
    history.push(1_000, "chaos", Observation::Drain { process: process(), deadline: SECOND });
    history.push(1_000 + took, "chaos", Observation::Drained { process: process(), unfinished });
    history
}

#[test]
fn late_drain() {
    earns(&drained(SECOND + 200_001, 0), Kind::LateDrain);
    clean(&drained(SECOND + 200_000, 0));
    let mut blocked = drained(2 * SECOND, 0);
    blocked.push(900, "chaos", fault(1, "pause"));
    earns(&blocked, Kind::LateDrain);
    let blocking = Rules { blocking: ["pause".to_owned()].into(), ..rules() };
    assert_eq!(kinds(&blocked, &blocking), []);
    let mut never = good();
    never.push(1_000, "chaos", Observation::Drain { process: "a.1".to_owned(), deadline: SECOND });
    earns(&never, Kind::LateDrain);
}

#[test]
fn cut_short() {
    let given_up = |after| {
        let mut history = drained(SECOND, 1);
        history.push(900, "a.1", start(3, "e2", "k", 1));
        history.push(1_000 + after, "a.1", finish(3, Finished::Cancelled));
        history.push(1, "chaos", fault(1, "database"));
        history
    };
    let repeating = Rules { repeating: ["database".to_owned()].into(), ..rules() };
    assert_eq!(kinds(&given_up(SECOND / 2), &repeating), [Kind::CutShort]);
    let mut handed_over = given_up(SECOND / 2);
    handed_over.push(1_100 + SECOND / 2, "b.1", assigned(2, 1));
    assert_eq!(kinds(&handed_over, &repeating), []);
    assert_eq!(kinds(&given_up(SECOND), &repeating), []);
}

#[test]
fn false_report_of_a_drain() {
    let mut plain = rules();
    plain.subscriptions[0].effects = false;
    assert_eq!(kinds(&drained(SECOND, 1), &plain), [Kind::FalseReport]);
    // With a transaction one more may have waited for it.
    clean(&drained(SECOND, 1));
    let cut = |unfinished| {
        let mut history = drained(SECOND, unfinished);
        history.push(900, "a.1", start(3, "e2", "k", 1));
        history.push(1_000 + SECOND, "a.1", finish(3, Finished::Cancelled));
        history.push(1, "chaos", fault(1, "kill"));
        history
    };
    let repeating = Rules { repeating: ["kill".to_owned()].into(), ..rules() };
    assert_eq!(kinds(&cut(0), &repeating), [Kind::FalseReport]);
    assert_eq!(kinds(&cut(1), &repeating), []);
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

#[test]
fn a_second_copy_of_an_event_that_took_effect_has_ended() {
    let mut history = good();
    let (incarnation, events) = ("p.2".to_owned(), vec![sent("e2", "k", 2)]);
    history.push(28, "p.2", Observation::Invoke { op: 9, incarnation, events, atomic: false });
    history.push(29, "p.2", Observation::Complete { op: 9, outcome: Outcome::Ok, places: vec![place(2)] });
    history = without(history, |saw| matches!(saw, Observation::Complete { op: 2, .. }));
    history.push(100, "observer", record("e2", "k", 2));
    history.push(90, "observer", settled(3, 3));
    let lenient = Rules { ok_outside: 0, ok_inside: 0, ..rules() };
    assert_eq!(kinds(&history, &lenient), []);
    // Where handlers take no effect once, it must be handled.
    let mut plain = lenient;
    plain.subscriptions[0].effects = false;
    assert_eq!(kinds(&history, &plain), [Kind::SettledTooFar, Kind::Lost]);
}

#[test]
fn staged_events_stand_in_the_order_of_their_effects() {
    let staging = |first: &str, second: &str| {
        let unasked = without(good(), |saw| matches!(saw, Observation::Invoke { .. }));
        changed(unasked, |mut line| {
            if let Observation::Effect { id, stages, .. } = &mut line.saw {
                stages.push(if id == "e1" { first } else { second }.to_owned());
            }
            Some(line)
        })
    };
    earns(&staging("e2", "e1"), Kind::Reordered);
    clean(&staging("e1", "e2"));
}

#[test]
fn a_run_after_its_copy_was_parked_is_a_release() {
    // Failed under `a.1`, then handled by `b.1` below the settled offset that its assignment began with.
    let parked_at = |at| {
        let mut history = changed(handed_over(2), |mut line| {
            if let Observation::Finish { run: 2, outcome } = &mut line.saw {
                *outcome = Finished::Done;
            }
            Some(line)
        });
        let group = || GROUP.to_owned();
        history.push(at, "observer", Observation::Parked { group: group(), place: place(1), crc: 7 });
        history.push(77, "observer", Observation::EndMark { group: group(), place: place(1) });
        history.push(71, "chaos", fault(1, "kill"));
        history
    };
    earns(&parked_at(76), Kind::Doubled);
    clean(&parked_at(74));
}

#[test]
fn what_ended_above_a_record_that_a_hand_over_did_not_wait_for_comes_again() {
    // The first record is still running when `b.1` takes over at it; the second one had ended, and comes again.
    let first_ended = |end| {
        let mut history = without(good(), |saw| matches!(saw, Observation::Settled { .. }));
        history = changed(history, |mut line| {
            match &mut line.saw {
                Observation::Start { run: 1, key, .. } => *key = Some("other".to_owned()),
                Observation::Finish { run: 1, .. } => line.at = end,
                _ => {}
            }
            Some(line)
        });
        history.push(72, "b.1", assigned(2, 0));
        history.push(75, "b.1", second_run(2, 1));
        history.push(76, "b.1", finish(3, Finished::Done));
        history
    };
    clean(&first_ended(73));
    earns(&first_ended(71), Kind::Doubled);
}

#[test]
fn compaction_may_remove_a_parked_copy_that_has_its_end_mark() {
    let marked = |marked: bool| {
        let mut history = changed(good(), |mut line| {
            match &mut line.saw {
                Observation::Finish { run: 2, outcome } => *outcome = Finished::Failed,
                Observation::Settled { .. } => line.at = 74,
                _ => {}
            }
            Some(line)
        });
        history.push(75, "a.1", second_run(1, 1));
        history.push(76, "a.1", finish(3, Finished::Done));
        if marked {
            let group = GROUP.to_owned();
            history.push(77, "observer", Observation::EndMark { group, place: place(1) });
        }
        history
    };
    clean(&marked(true));
    let report = marked(false).check(&rules());
    assert_eq!((report.count(Kind::Doubled), report.count(Kind::SettledTooFar)), (1, 1), "{report}");
}
