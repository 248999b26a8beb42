//! P11: "caught up" is never said too early, whatever the apps feed each other meanwhile.

use aqueduct_app::{App, Status, caught_up};
use aqueduct_core::{Handled, State};
use aqueduct_memory::MemoryLog;
use aqueduct_runtime::{Bus, Subscription};

use crate::{
    support::{Gate, Pinged, Ponged, Running, bus, memory, ping, until},
    watched::Watched,
};

async fn on_ping(event: Pinged, State(gate): State<Gate>) -> Handled<Ponged> {
    gate.pass().await;
    Ok(Ponged { key: event.key, number: event.number })
}

/// Answers until the number is used up.
async fn on_pong(event: Ponged, State(gate): State<Gate>) -> Handled<Option<Pinged>> {
    gate.pass().await;
    Ok((event.number > 1).then(|| ping(&event.key, event.number - 1)))
}

/// The two apps, not running yet, each with its gate.
fn apps(bus: &Bus) -> [(App, Gate); 2] {
    let (pinged, ponged) = (Gate::shut(), Gate::shut());
    let pinger = App::builder("pinger").log(bus).state(pinged.clone());
    let ponger = App::builder("ponger").log(bus).state(ponged.clone());
    [
        (pinger.subscribe(Subscription::builder("pings").on(on_ping)).build().unwrap(), pinged),
        (ponger.subscribe(Subscription::builder("pongs").on(on_pong)).build().unwrap(), ponged),
    ]
}

async fn now(apps: &[Status]) -> bool {
    caught_up(apps).await.unwrap()
}

/// Red when `caught_up` does not look at `joined`: what the log says of a group is not what its database will say,
/// and before the first start its topics are not even there.
#[tokio::test(start_paused = true)]
async fn apps_that_have_not_joined_are_not_caught_up() {
    let bus = memory(1).await;
    let [(pinger, _), (ponger, _)] = apps(&bus);
    let both = [pinger.status(), ponger.status()];
    assert!(!now(&both).await);
    let pinger = Running::start(pinger).ready().await;
    assert!(!now(&both).await);
    let ponger = Running::start(ponger).ready().await;
    assert!(now(&both).await);
    pinger.stop().await.unwrap().unwrap();
    ponger.stop().await.unwrap().unwrap();
}

/// Red when `caught_up` passes over a lag.
#[tokio::test(start_paused = true)]
async fn a_conversation_is_over_when_the_last_answer_was_handled() {
    let bus = memory(4).await;
    let [(pinger, pinged), (ponger, ponged)] = apps(&bus);
    let (pinger, ponger) = (Running::start(pinger).ready().await, Running::start(ponger).ready().await);
    let both = [pinger.status.clone(), ponger.status.clone()];
    assert!(now(&both).await);
    bus.publish(&ping("a", 5)).await.unwrap();
    for hop in 1..=5 {
        until(async || pinged.started() == hop).await;
        assert!(!now(&both).await, "ping {hop} is being handled");
        pinged.open(1);
        until(async || ponged.started() == hop).await;
        assert!(!now(&both).await, "pong {hop} is being handled");
        ponged.open(1);
    }
    until(async || now(&both).await).await;
    assert_eq!((pinger.status.subscriptions()[0].ended, ponger.status.subscriptions()[0].ended), (5, 5));
    pinger.stop().await.unwrap().unwrap();
    ponger.stop().await.unwrap().unwrap();
}

/// A consequence that is stored, but of which the handler has not heard yet.
#[tokio::test(start_paused = true)]
async fn a_receipt_that_is_held_is_not_caught_up() {
    let log = MemoryLog::new(1);
    let bus = bus(log.clone()).await;
    let [(pinger, pinged), (ponger, ponged)] = apps(&bus);
    let (pinger, ponger) = (Running::start(pinger).ready().await, Running::start(ponger).ready().await);
    let both = [pinger.status.clone(), ponger.status.clone()];
    bus.publish(&ping("a", 1)).await.unwrap();
    log.faults().hold_receipts();
    pinged.open(1);
    ponged.open(1);
    ponger.ended(1).await;
    assert!(!now(&both).await, "the pong was handled, the ping has not ended");
    log.faults().release_receipts();
    until(async || now(&both).await).await;
    pinger.stop().await.unwrap().unwrap();
    ponger.stop().await.unwrap().unwrap();
}

/// The answer comes while it is being looked: after the pinger was seen without lag, the ponger answers and so has
/// none either. Red when `caught_up` does not compare the ends of the topics before and after.
#[tokio::test(start_paused = true)]
async fn an_answer_between_two_looks_is_seen() {
    let log = Watched::new();
    let between = log.between.clone();
    let bus = bus(log).await;
    let [(pinger, pinged), (ponger, ponged)] = apps(&bus);
    let (pinger, ponger) = (Running::start(pinger).ready().await, Running::start(ponger).ready().await);
    let both = [pinger.status.clone(), ponger.status.clone()];
    bus.publish(&ping("a", 2)).await.unwrap();
    pinged.open(1);
    pinger.ended(1).await;
    until(async || ponged.started() == 1).await;
    // From now on the ponger answers while the pinger's lag is looked at.
    let status = ponger.status.clone();
    let gate = ponged.clone();
    between.then(Box::pin(async move {
        gate.open(1);
        for _ in 0..100_000 {
            if status.subscriptions()[0].ended == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the ponger did not answer");
    }));
    assert!(!now(&both).await, "the second ping came in between");
    assert!(between.0.lock().unwrap().is_none(), "nothing came in between");
    assert!(!now(&both).await, "the second ping is being handled");
    pinged.open(1);
    ponged.open(1);
    until(async || now(&both).await).await;
    pinger.stop().await.unwrap().unwrap();
    ponger.stop().await.unwrap().unwrap();
}
