//! A program that publishes. Each key has one writer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_core::{Draft, Environment, EventId};
use aqueduct_runtime::Bus;
use tokio::time::sleep;

use super::{
    observer::{Seen, Sent},
    plan::Publishing,
    process::Process,
};

/// How often a failed publish is tried again.
const TRIES: u32 = 200;

/// The pause before it is.
const AGAIN: Duration = Duration::from_millis(100);

pub(crate) struct Publisher {
    pub(crate) process: Arc<Process>,
    pub(crate) bus: Bus,
    pub(crate) publishing: Publishing,
    pub(crate) pace: Duration,
    pub(crate) calls: Arc<AtomicU64>,
}

/// Events with their numbers; a number is per key.
pub(crate) type Numbered = Vec<(Draft, Sent)>;

/// Numbers events by key, gives them ids, and deals them to `publishers` so that each key has one.
pub(crate) fn deal(events: Vec<Draft>, publishers: usize, environment: &Environment) -> Vec<Numbered> {
    let mut dealt: Vec<Numbered> = (0..publishers).map(|_| Vec::new()).collect();
    let mut numbers: BTreeMap<Option<Vec<u8>>, u64> = BTreeMap::new();
    let mut publisher_of: BTreeMap<Option<Vec<u8>>, usize> = BTreeMap::new();
    for (index, draft) in events.into_iter().enumerate() {
        let id = EventId::of_name("simulation", &index.to_string());
        let info = draft.info();
        let key = draft.clone().into_record("simulation", environment).key.map(|key| key.to_vec());
        let next = publisher_of.len() % publishers;
        let publisher = *publisher_of.entry(key.clone()).or_insert(next);
        let number = numbers.entry(key.clone()).or_default();
        *number += 1;
        let sent = Sent {
            id: id.to_string(),
            topic: info.topic.to_owned(),
            key,
            number: *number,
            payload: draft.payload().to_vec(),
        };
        dealt[publisher].push((draft.id(id), sent));
    }
    dealt
}

impl Publisher {
    /// Publishes all, one way or the other. The result says what was never acknowledged.
    pub(crate) async fn run(self, events: Numbered) -> usize {
        match self.publishing {
            Publishing::Awaited => self.one_by_one(events).await,
            Publishing::Pipelined(depth) => self.pipelined(events, depth).await,
            Publishing::Batched(size) => self.batched(events, size).await,
        }
    }

    fn begin(&self, tried: u32, events: &[Sent]) -> u64 {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let incarnation = format!("{}+{tried}", self.process.name());
        self.process.saw(Seen::Publishing { call, incarnation, events });
        call
    }

    async fn one_by_one(&self, events: Numbered) -> usize {
        let mut given_up = 0;
        for (draft, sent) in events {
            let mut tried = 0;
            loop {
                let call = self.begin(tried, std::slice::from_ref(&sent));
                let outcome = self.bus.publish(draft.clone()).await;
                let seen = outcome.as_ref().map(std::slice::from_ref);
                self.process.saw(Seen::Published { call, outcome: seen });
                tried += 1;
                if outcome.is_ok() {
                    break;
                }
                if tried == TRIES {
                    given_up += 1;
                    break;
                }
                sleep(AGAIN).await;
            }
            sleep(self.pace).await;
        }
        given_up
    }

    /// A failed one is not tried again: later ones of its key may be stored.
    async fn pipelined(&self, events: Numbered, depth: usize) -> usize {
        let mut given_up = 0;
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut under_way = Vec::new();
            for (draft, sent) in events.by_ref().take(depth) {
                let call = self.begin(0, std::slice::from_ref(&sent));
                under_way.push((call, self.bus.publish(draft)));
            }
            for (call, publish) in under_way {
                let outcome = publish.await;
                given_up += usize::from(outcome.is_err());
                let seen = outcome.as_ref().map(std::slice::from_ref);
                self.process.saw(Seen::Published { call, outcome: seen });
            }
            sleep(self.pace).await;
        }
        given_up
    }

    async fn batched(&self, events: Numbered, size: usize) -> usize {
        let mut given_up = 0;
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let (drafts, sent): (Vec<_>, Vec<_>) = events.by_ref().take(size).unzip();
            let call = self.begin(0, &sent);
            let outcome = self.bus.publish_all(drafts).await;
            given_up += if outcome.is_err() { sent.len() } else { 0 };
            self.process.saw(Seen::Published { call, outcome: outcome.as_deref() });
            sleep(self.pace).await;
        }
        given_up
    }
}
