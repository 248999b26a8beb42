//! The framework itself in the simulation; `tools/checker` decides.

mod contention;
mod notes;
mod workload;

use std::collections::BTreeMap;

use aqueduct_testkit::sim::{Failure, Fault, Plan, Summary, World, run};
use checker::{History, Kind};

use notes::Notes;
use workload::{PANIC, Workload};

/// One seed, judged.
fn judge(seed: u64) -> Result<(World, History), Failure> {
    judge_with(seed, false)
}

/// One seed, judged; first its history is printed, if it is wanted.
fn judge_with(seed: u64, trace: bool) -> Result<(World, History), Failure> {
    let mut plan = Plan::new(seed);
    let workload = Workload::of(&mut plan);
    let notes = Notes::new(&workload);
    let world = run(&plan, &workload.case(&notes))?;
    let history = notes.history(&world, &workload);
    for line in history.lines().iter().filter(|_| trace) {
        println!("{:>10} {:<14} {:?}", line.at, line.by, line.saw);
    }
    let report = history.check(&workload.rules(&world));
    if report.passed() {
        return Ok((world, history));
    }
    Err(Failure { seed, why: format!("the checker says:\n{report}"), plan: format!("{plan}  {workload}\n") })
}

#[derive(Default)]
struct Totals {
    summary: Summary,
    failures: Vec<String>,
}

/// Handlers that panic are part of the workload; their messages are not worth a line each.
fn without_their_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&PANIC) {
                shown(info);
            }
        }));
    });
}

fn seeds(first: u64, count: u64) -> Totals {
    without_their_panics();
    let mut totals = Totals::default();
    let started = std::time::Instant::now();
    for seed in first..first.saturating_add(count) {
        match judge(seed) {
            Ok((world, _)) => totals.summary.add(world.summary().clone()),
            Err(failure) => totals.failures.push(format!(
                "{failure}  again: AQUEDUCT_SEED={seed} cargo test --release -p aqueduct-testkit one_seed -- --nocapture"
            )),
        }
        if totals.failures.len() == 5 {
            break;
        }
    }
    let millis = started.elapsed().as_millis();
    println!("seeds {first} to {} in {millis} ms: {:?}", first + count - 1, totals.summary);
    totals
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[track_caller]
fn assert_kept(totals: &Totals) {
    assert!(totals.failures.is_empty(), "{}", totals.failures.join("\n\n"));
}

/// P1 to P4, P6, P9, P10 by seeds that never change: what is red here was green before a change.
#[test]
fn fixed_seeds_keep_every_promise() {
    let totals = seeds(0, number("AQUEDUCT_SEEDS").unwrap_or(2_000));
    assert_kept(&totals);
    let faults = &totals.summary.faults;
    let calls = ["refused", "request lost", "answer lost", "late"];
    let calls = calls.iter().flat_map(|call| [format!("log {call}"), format!("database {call}")]);
    let kinds = Fault::ALL.iter().map(|fault| fault.name().to_owned());
    for kind in kinds.chain(calls).chain(["topic outage".to_owned(), "database outage".to_owned()]) {
        let happened = faults.get(kind.as_str()).copied().unwrap_or(0);
        assert!(happened > 0, "void: {kind} never happened: {faults:?}");
    }
}

/// The same for seeds that nobody has seen.
#[test]
fn fresh_seeds_keep_every_promise() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let base = number("AQUEDUCT_FRESH").unwrap_or(now.as_secs() * 100_000);
    println!("fresh seeds from {base}");
    assert_kept(&seeds(base, 500));
}

/// One seed alone, with all that it derives.
#[test]
fn one_seed() {
    let seed = number("AQUEDUCT_SEED").unwrap_or(7);
    let mut plan = Plan::new(seed);
    println!("{plan}  {}", Workload::of(&mut plan));
    let judged = judge_with(seed, number("AQUEDUCT_TRACE").is_some());
    let (world, _) = judged.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{:?}", world.summary());
}

/// R9. Red when anything follows the real clock, a hash map's order, or another thread.
#[test]
fn a_seed_runs_the_same_way_again() {
    for seed in 0..200 {
        let run = || match judge(seed) {
            Ok((_, history)) => history,
            Err(failure) => panic!("{failure}"),
        };
        let (first, second) = (run(), run());
        let differs = first.lines().iter().zip(second.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed} ran another way");
        assert_eq!(first.lines().len(), second.lines().len(), "seed {seed}");
    }
}

/// The kinds that a broken framework would earn are those that the checker finds in a history that is broken by hand.
#[test]
fn a_history_with_a_hole_is_not_passed() {
    let mut plan = Plan::new(1);
    let workload = Workload::of(&mut plan);
    let notes = Notes::new(&workload);
    let world = run(&plan, &workload.case(&notes)).unwrap_or_else(|failure| panic!("{failure}"));
    let whole = notes.history(&world, &workload);
    let mut holed = History::new();
    let mut dropped = BTreeMap::new();
    for line in whole.lines() {
        if let checker::Observation::Record { place, .. } = &line.saw
            && place.topic == "steps"
            && dropped.is_empty()
        {
            dropped.insert(place.clone(), ());
            continue;
        }
        holed.push(line.at, line.by.clone(), line.saw.clone());
    }
    assert_eq!(dropped.len(), 1);
    assert!(holed.check(&workload.rules(&world)).count(Kind::Lost) > 0);
}
