//! A service that behaves in every way that one can.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{Delivery, Draft, Handled, RetryAfter, State, Terminal};
use aqueduct_derive::Event;
use aqueduct_runtime::{OnFailure, Subscription};
use aqueduct_testkit::sim::{Case, Dice, Plan, Process, Tx, VirtualClock, World};
use checker::{Once, Rules};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::notes::Notes;

/// What a handler says when it panics.
pub(crate) const PANIC: &str = "in a panic";

pub(crate) const GROUP: &str = "steps";

/// One step of a key.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "sim.Stepped", topic = "steps", key = key, crate = aqueduct_core)]
pub(crate) struct Stepped {
    pub(crate) key: String,
    pub(crate) number: u64,
}

/// An event that no handler takes.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "sim.Strange", topic = "steps", key = key, crate = aqueduct_core)]
struct Strange {
    key: String,
}

/// What a step causes.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(name = "sim.Echoed", topic = "echoes", key = key, crate = aqueduct_core)]
pub(crate) struct Echoed {
    key: String,
    number: u64,
    /// From topic to topic the echo is the effect.
    pub(crate) effect: Option<Effect>,
}

/// A row that a handler writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Effect {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) generation: i64,
    pub(crate) stages: Vec<String>,
}

/// How a key's events are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Ready,
    Slow(Duration),
    /// One event in so many is slow.
    SlowAtTimes(u64, Duration),
    /// The first attempts at one event in three fail.
    FailsFirst(u32),
    /// Fails until it is repaired.
    FailsForEver,
    /// One event in so many fails for good, until it is repaired.
    Terminal(u64),
    Panics(u32),
    AsksForTime(Duration),
}

/// Where the service's effects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    None,
    /// There is one, and the handler does not take its transaction.
    Beside,
    Transactional,
}

/// What the service is like in a run.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    database: Database,
    echoes: bool,
    /// From topic to topic.
    exactly_once: bool,
    behaviours: Vec<Behaviour>,
    events: Vec<Option<Stepped>>,
    strange: Vec<Option<String>>,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strange = self.strange.iter().flatten().count();
        write!(
            f,
            "database {:?}, echoes {}, exactly once {}, strange events {strange}, keys {:?}",
            self.database, self.echoes, self.exactly_once, self.behaviours
        )
    }
}

impl Workload {
    pub(crate) fn of(plan: &mut Plan) -> Self {
        let mut dice = plan.dice.clone();
        let behaviours = (0..plan.keys).map(|_| behaviour(&mut dice)).collect();
        let may_be_strange = plan.on_failure != OnFailure::Stop && dice.percent(50);
        let (mut events, mut strange) = (Vec::new(), Vec::new());
        for number in 1..=plan.events {
            let key = format!("k{}", plan.key(&mut dice));
            let is_strange = may_be_strange && dice.percent(3);
            strange.push(is_strange.then(|| key.clone()));
            events.push((!is_strange).then(|| Stepped { key, number: u64::try_from(number).unwrap() }));
        }
        let databases = [Database::None, Database::Beside, Database::Transactional, Database::Transactional];
        let (database, echoes) = (dice.pick(&databases), dice.percent(60));
        let exactly_once = database != Database::Transactional && dice.percent(60);
        Self { database, echoes: echoes || exactly_once, exactly_once, behaviours, events, strange }
    }

    /// Whether what a handler does takes effect once: in the database, or as echoes.
    pub(crate) fn effects(&self) -> bool {
        self.database == Database::Transactional || self.exactly_once
    }

    pub(crate) fn exactly_once(&self) -> bool {
        self.exactly_once
    }

    pub(crate) fn case(&self, notes: &Arc<Notes>) -> Case<Hand> {
        let workload = Arc::new(self.clone());
        let repaired = Arc::new(AtomicBool::new(false));
        let repair = Arc::clone(&repaired);
        let (notes, observer) = (Arc::clone(notes), Arc::clone(notes));
        let (transactional, exactly_once) = (self.database == Database::Transactional, self.exactly_once);
        let case = Case::new(
            move |plan| {
                let subscription = Subscription::builder(GROUP);
                plan.apply(match (transactional, exactly_once) {
                    (true, _) => subscription.on(in_transaction),
                    (false, true) => subscription.on(plainly).exactly_once(),
                    (false, false) => subscription.on(plainly),
                })
            },
            move |process| Hand {
                notes: Arc::clone(&notes),
                process: Arc::clone(process),
                clock: process.clock(),
                workload: Arc::clone(&workload),
                repaired: Arc::clone(&repaired),
            },
        );
        let events = self.events.iter().zip(&self.strange).map(|pair| match pair {
            (Some(event), _) => Draft::of(event).unwrap(),
            (None, key) => Draft::of(&Strange { key: key.clone().unwrap() }).unwrap(),
        });
        let case = case
            .drafts(events)
            .repair(move || repair.store(true, Ordering::Relaxed))
            .observer(observer)
            .finally(counts_agree);
        let case = if self.database == Database::None { case } else { case.database() };
        // From topic to topic, what was published twice has two echoes of one id.
        if self.database == Database::None || self.exactly_once {
            case
        } else {
            case.finally(counts_agree_and_echoes_are_single)
        }
    }

    pub(crate) fn rules(&self, world: &World) -> Rules {
        let mut topics = BTreeSet::from(["steps".to_owned()]);
        if self.effects() {
            topics.insert("echoes".to_owned());
        }
        let repeating = [
            "database-storm",
            "database-outage",
            "log-storm",
            "pause",
            "zombie",
            "silent-client",
            "expire",
            "lose",
        ];
        Rules {
            subscriptions: vec![checker::Subscription {
                group: GROUP.to_owned(),
                topics: BTreeSet::from(["steps".to_owned()]),
                effects: match self.exactly_once {
                    true => Some(Once::Record),
                    false => self.effects().then_some(Once::Event),
                },
                window: u64::try_from(world.plan().window).unwrap(),
            }],
            topics,
            // What does not decode is parked again.
            released: world.plan().release && self.strange.iter().flatten().next().is_none(),
            repeating: repeating.iter().map(|kind| (*kind).to_owned()).collect(),
            // A storm may refuse nearly everything; what is left is judged all the same.
            ok_inside: 0,
            ok_outside: 0,
            ..Rules::default()
        }
    }
}

fn behaviour(dice: &mut Dice) -> Behaviour {
    match dice.between(0..=13) {
        0..=4 => Behaviour::Ready,
        5 => Behaviour::Slow(dice.millis(1..=50)),
        6 => Behaviour::Slow(dice.millis(500..=1_500)),
        7 | 8 => Behaviour::SlowAtTimes(dice.between(2..=10), dice.millis(10..=3_000)),
        9 => Behaviour::FailsFirst(u32::try_from(dice.between(1..=4)).unwrap()),
        10 => Behaviour::FailsForEver,
        11 => Behaviour::Terminal(dice.between(1..=6)),
        12 => Behaviour::Panics(u32::try_from(dice.between(1..=3)).unwrap()),
        _ => Behaviour::AsksForTime(dice.millis(1..=2_000)),
    }
}

/// Each key's counter is as high as it has effects.
fn counts_agree(world: &World) -> Result<(), String> {
    let rows = world.rows();
    let effects = rows.all::<Effect>("effect/").map_err(|error| error.to_string())?;
    let counts = rows.all::<u64>("count/").map_err(|error| error.to_string())?;
    let total: u64 = counts.iter().map(|(_, _, count)| count).sum();
    if total == u64::try_from(effects.len()).unwrap() {
        return Ok(());
    }
    Err(format!("the counters have {total}, there are {} effects", effects.len()))
}

/// And what was staged is in the log once, whoever moved it.
fn counts_agree_and_echoes_are_single(world: &World) -> Result<(), String> {
    counts_agree(world)?;
    let (records, ids) = (world.records("echoes").len(), world.ids("echoes").len());
    if records == ids { Ok(()) } else { Err(format!("{ids} echoes are in the log {records} times")) }
}

/// What a handler works with.
#[derive(Clone)]
pub(crate) struct Hand {
    notes: Arc<Notes>,
    process: Arc<Process>,
    clock: VirtualClock,
    workload: Arc<Workload>,
    repaired: Arc<AtomicBool>,
}

async fn plainly(delivery: Delivery<Stepped>, State(hand): State<Hand>) -> Handled<Option<Echoed>> {
    let generation = hand.process.generation(&delivery.position.partition);
    let run = hand.notes.start(&hand.process, hand.clock, &delivery, generation);
    let result = hand.behave(&delivery).await.map(|()| {
        let effect = hand.workload.exactly_once.then(|| effect(&delivery, generation));
        Some(Echoed { effect, ..hand.echo(&delivery)? })
    });
    run.end(result.is_ok());
    result
}

async fn in_transaction(
    delivery: Delivery<Stepped>,
    State(hand): State<Hand>,
    tx: Tx,
) -> Handled<Option<Echoed>> {
    let run = hand.notes.start(&hand.process, hand.clock, &delivery, tx.generation());
    let result = async {
        // Read before the wait, written after it: only a conflict that is noticed keeps the count right.
        let counter = format!("count/{}", delivery.event.key);
        let count: u64 = tx.get(&counter)?.unwrap_or(0);
        hand.behave(&delivery).await?;
        tx.put(&counter, &(count + 1))?;
        let echo = hand.echo(&delivery);
        let envelope = &delivery.envelope;
        let stages = echo.iter().map(|_| envelope.id.derive(&envelope.source, GROUP, 0).to_string());
        let effect = Effect { stages: stages.collect(), ..effect(&delivery, tx.generation()) };
        tx.put(&format!("effect/{:06}", hand.notes.unique()), &effect)?;
        Ok(echo)
    };
    let result = result.await;
    run.end(result.is_ok());
    result
}

fn effect(delivery: &Delivery<Stepped>, generation: i64) -> Effect {
    Effect {
        id: delivery.envelope.id.to_string(),
        topic: delivery.position.partition.topic.to_string(),
        partition: delivery.position.partition.partition,
        offset: delivery.position.offset,
        generation,
        stages: Vec::new(),
    }
}

impl Hand {
    fn echo(&self, delivery: &Delivery<Stepped>) -> Option<Echoed> {
        let Stepped { key, number } = delivery.event.clone();
        self.workload.echoes.then_some(Echoed { key, number, effect: None })
    }

    async fn behave(&self, delivery: &Delivery<Stepped>) -> Handled {
        let Stepped { key, number } = &delivery.event;
        let index: usize = key[1..].parse().unwrap();
        let repaired = self.repaired.load(Ordering::Relaxed);
        match self.workload.behaviours[index] {
            Behaviour::Slow(time) => sleep(time).await,
            Behaviour::SlowAtTimes(one_in, time) if number % one_in == 0 => sleep(time).await,
            Behaviour::FailsFirst(times) if number % 3 == 0 && delivery.attempt <= times && !repaired => {
                return Err("not yet".into());
            }
            Behaviour::FailsForEver if !repaired => return Err("never".into()),
            Behaviour::Terminal(one_in) if number % one_in == 0 && !repaired => {
                return Err(Terminal::new("for good").into());
            }
            Behaviour::Panics(times) if number % 3 == 0 && delivery.attempt <= times && !repaired => {
                std::panic::panic_any(PANIC)
            }
            Behaviour::AsksForTime(time) if number % 3 == 0 && delivery.attempt == 1 && !repaired => {
                return Err(RetryAfter::new(time, "later").into());
            }
            _ => {}
        }
        Ok(())
    }
}
