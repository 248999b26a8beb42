//! Standing still, readiness, drains.

use super::*;

/// Nothing ends between the first sample and the last, `seconds` apart, and there is lag.
fn standing(seconds: u64) -> History {
    let mut history = good();
    let invoke = Observation::Invoke {
        op: 3,
        incarnation: "p.1".to_owned(),
        events: vec![sent("e3", "k3", 3)],
        atomic: false,
    };
    history.push(90, "p.1", invoke);
    history.push(95, "p.1", Observation::Complete { op: 3, outcome: Outcome::Ok, places: vec![place(2)] });
    history.push(100, "observer", record("e3", "k3", 2));
    for second in 0..=seconds {
        history.push(1_000 + second * SECOND, "observer", settled(2, 3));
    }
    // Its end comes after all that is judged here.
    history.push(1_000 + (seconds + 1) * SECOND, "a.1", start(3, "e3", "k3", 2));
    history.push(1_001 + (seconds + 1) * SECOND, "a.1", finish(3, Finished::Done));
    history.push(1_002 + (seconds + 1) * SECOND, "observer", effect("e3", 2, 3));
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
    let moves = changed(moves, |mut line| {
        if let Observation::Start { run: 3, attempt, .. } = &mut line.saw {
            *attempt = 2;
        }
        Some(line)
    });
    clean(&moves);
    let idle = changed(standing(31), |mut line| {
        if let Observation::Settled { end, .. } = &mut line.saw {
            *end = 2;
        }
        Some(line)
    });
    clean(&idle);
    // Markers of transactions are no records.
    let marker = changed(standing(31), |mut line| {
        match &mut line.saw {
            Observation::Settled { offset, end, .. } if line.at > 100 => (*offset, *end) = (Some(3), 5),
            // All of it had ended.
            Observation::Start { run: 3, .. } => line.at = 101,
            Observation::Finish { run: 3, .. } => line.at = 102,
            _ => {}
        }
        Some(line)
    });
    clean(&marker);
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
    // It does not know of what it gave back.
    let mut gave = ready(true, false);
    let (group, shard) = (GROUP.to_owned(), shard());
    gave.push(10 * SECOND, "a.1", Observation::Revoked { group, shard });
    clean(&gave);
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
    plain.subscriptions[0].effects = None;
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
    // What was returned may not have been stored: where its time was over, or that of a hand-over that met it.
    let mut records = rules();
    records.subscriptions[0].effects = Some(Once::Record);
    assert_eq!(kinds(&drained(SECOND, 3), &records), [Kind::FalseReport]);
    assert_eq!(kinds(&drained(SECOND, 2), &records), []);
    let early = || drained(SECOND / 2, 2);
    assert_eq!(kinds(&early(), &records), [Kind::FalseReport]);
    let mut handed_over = early();
    let (group, shard) = (GROUP.to_owned(), shard());
    handed_over.push(75, "a.1", Observation::Revoking { group: group.clone(), shard: shard.clone() });
    handed_over.push(100, "a.1", Observation::Revoked { group, shard });
    // One that ended at 50, and one at 70.
    assert_eq!(kinds(&handed_over, &Rules { hand_over: 25, ..records.clone() }), []);
    assert_eq!(kinds(&handed_over, &Rules { hand_over: 26, ..records.clone() }), [Kind::FalseReport]);
    // Where one before it is open, its successors wait.
    let behind = changed(drained(SECOND / 2, 2), |mut line| {
        match &mut line.saw {
            Observation::Start { run: 1, key, .. } => *key = Some("other".to_owned()),
            Observation::Finish { run: 1, outcome } => *outcome = Finished::Failed,
            Observation::Settled { .. } => return None,
            _ => {}
        }
        Some(line)
    });
    let at_all = Rules { healed: false, read_to_end: false, ..records };
    assert_eq!(kinds(&behind, &at_all), []);
    // One that was given up at a hand-over, and done when the partition had come back.
    let mut came_back = drained(SECOND, 1);
    came_back.push(1, "chaos", fault(1, "kill"));
    came_back.push(55, "a.1", start(3, "e2", "k", 1));
    came_back.push(56, "a.1", finish(3, Finished::Failed));
    came_back.push(57, "a.1", assigned(2, 1));
    let mut again = start(4, "e2", "k", 1);
    if let Observation::Start { generation, .. } = &mut again {
        *generation = 2;
    }
    came_back.push(900, "a.1", again);
    came_back.push(901, "a.1", finish(4, Finished::Done));
    came_back = without(came_back, |saw| matches!(saw, Observation::Start { run: 2, .. }));
    came_back = without(came_back, |saw| matches!(saw, Observation::Finish { run: 2, .. }));
    let came_back = without(came_back, |saw| matches!(saw, Observation::Settled { .. }));
    assert_eq!(kinds(&came_back, &Rules { ..plain.clone() }), []);
}
