//! What came twice: deliveries, effects, copies.

use super::*;

#[test]
fn doubled_effect() {
    let mut history = good();
    history.push(100, "observer", effect("e2", 1, 3));
    earns(&history, Kind::Doubled);
    clean(&good());
}

/// From topic to topic each record takes effect once: of what was published twice, each.
#[test]
fn doubled_effect_of_a_record() {
    let of_records = || {
        let mut rules = rules();
        rules.subscriptions[0].effects = Some(Once::Record);
        rules
    };
    assert_eq!(kinds(&good(), &of_records()), []);
    let mut twice = good();
    twice.push(100, "observer", effect("e2", 1, 3));
    assert_eq!(kinds(&twice, &of_records()), [Kind::Doubled]);
    let none = without(good(), |saw| matches!(saw, Observation::Effect { id, .. } if id == "e2"));
    assert_eq!(kinds(&none, &of_records()), [Kind::Lost]);
    let turned = changed(good(), |mut line| {
        if let Observation::Effect { seq, .. } = &mut line.saw {
            *seq = -*seq;
        }
        Some(line)
    });
    assert_eq!(kinds(&turned, &of_records()), [Kind::Reordered]);
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
    // It woke before it had taken the partition up: it begins where the newer owner is by then.
    let late = changed(woken(0), |mut line| {
        if let Observation::Assigned { generation: 1, settled, .. } = &mut line.saw {
            (line.at, *settled) = (59, Some(1));
        }
        Some(line)
    });
    assert_eq!(kinds(&late, &small), []);
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
fn a_hand_over_that_took_too_long_explains_what_comes_again() {
    let took = |limit, gave| {
        let (group, shard) = (GROUP.to_owned(), shard());
        let mut history = handed_over(1);
        history.push(50, "a.1", Observation::Revoking { group: group.clone(), shard: shard.clone() });
        history.push(gave, "a.1", Observation::Revoked { group, shard });
        let rules = Rules { hand_over: limit, ..rules() };
        (kinds(&history, &rules), history.check(&rules).counts["late hand-overs"])
    };
    assert_eq!(took(20, 70), (vec![], 1));
    assert_eq!(took(21, 70), (vec![Kind::Doubled], 0));
    // One that was over before explains nothing.
    assert_eq!(took(5, 55).0, [Kind::Doubled]);
    // Nor one that came long after it had ended.
    let (group, shard) = (GROUP.to_owned(), shard());
    let mut long_after = handed_over(1);
    long_after.push(72, "a.1", Observation::Revoking { group: group.clone(), shard: shard.clone() });
    long_after.push(74, "a.1", Observation::Revoked { group, shard });
    assert_eq!(kinds(&long_after, &Rules { hand_over: 1, ..rules() }), [Kind::Doubled]);
    assert_eq!(kinds(&long_after, &Rules { hand_over: 2, ..rules() }), []);
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
    // It was parked all the same.
    let one = Rules { at_least: [("parked".to_owned(), 1)].into(), ..rules() };
    assert_eq!(marked(true).check(&one).void, None);
    assert!(marked(false).check(&one).void.is_some());
    let report = marked(false).check(&rules());
    assert_eq!((report.count(Kind::Doubled), report.count(Kind::SettledTooFar)), (1, 1), "{report}");
}
