//! What the log holds against what was published.

use super::*;

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
    plain.subscriptions[0].effects = None;
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
    // Effects that are records have their own order: of two with one id the second is no later number of the first.
    let mut of_records = rules();
    of_records.subscriptions[0].effects = Some(Once::Record);
    assert_eq!(kinds(&staging("e2", "e1"), &of_records), []);
}
