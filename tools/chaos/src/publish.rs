//! The publisher: one writer per key, awaited publishes and batches in flight, a line before and one after each.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use anyhow::Context;
use aqueduct::{Bus, LogError, PublishError};
use checker::{History, Observation, Outcome, Place, Sent};
use clap::Args;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::MissedTickBehavior;

use crate::{
    consume::patiently,
    event::Moved,
    random::Random,
    sink::Sink,
    spy::{outcome_of, place},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log's URL.
    #[arg(long)]
    log: String,
    /// The folder of observations.
    #[arg(long)]
    out: PathBuf,
    /// The name of this publisher; its keys are its own.
    #[arg(long)]
    source: String,
    /// The number of this start of it, from 1.
    #[arg(long)]
    incarnation: u64,
    #[arg(long)]
    seed: u64,
    /// How many keys.
    #[arg(long, default_value_t = 64)]
    keys: u64,
    /// Events of a batch; 1 mixes single publishes and batches of up to 20.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Publishes under way at once.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Publishes a second; 0 for as many as it can.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Ends after this many events; 0 for never.
    #[arg(long, default_value_t = 0)]
    events: u64,
    /// Ends after this many failed publishes.
    #[arg(long, default_value_t = 1)]
    failures: u64,
    /// Publishes again what the last incarnation does not know the outcome of.
    #[arg(long)]
    repeat: bool,
}

type Answer = (u64, Result<Vec<Place>, (Outcome, String)>);

/// Publishes, with a line before and one after.
pub(crate) struct Publisher {
    bus: Bus,
    sink: Sink,
    incarnation: String,
    op: u64,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
    failed: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let by = format!("{}.{}", options.source, options.incarnation);
    let sink = Sink::file(&options.out.join(format!("{by}.jsonl")), &by)?;
    let bus = patiently(async || aqueduct::connect(&options.log).await).await?.with_source(&options.source);
    let topic = aqueduct::core::log::TopicSpec::new(aqueduct::TopicName::new(crate::event::MOVES)?);
    patiently(async || bus.log().ensure_topic(topic.clone()).await).await?;
    let under_way = FuturesUnordered::new();
    let mut publisher = Publisher { bus, sink, incarnation: by.clone(), op: 0, under_way, failed: 0 };
    if options.repeat {
        for event in unknown(&options)? {
            publisher.publish(&[event], true)?;
            publisher.take_in(options.in_flight).await;
        }
    }
    let result = publisher.publish_on(&options, &by).await;
    publisher.take_in(0).await;
    publisher.bus.log().close().await?;
    result
}

impl Publisher {
    pub(crate) fn new(bus: Bus, sink: Sink, incarnation: &str) -> Self {
        let (incarnation, under_way) = (incarnation.to_owned(), FuturesUnordered::new());
        Self { bus, sink, incarnation, op: 0, under_way, failed: 0 }
    }

    async fn publish_on(&mut self, options: &Options, by: &str) -> anyhow::Result<()> {
        let mut random = Random::new(options.seed ^ options.incarnation.rotate_left(32));
        let mut stop = pin!(aqueduct::shutdown_signal());
        let pause = 1_000_000_u64.checked_div(options.rate.into()).unwrap_or(0);
        let mut tick = tokio::time::interval(Duration::from_micros(pause.max(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while self.failed < options.failures && (options.events == 0 || number < options.events) {
            if options.rate > 0 {
                tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    _ = tick.tick() => {}
                }
            }
            let size = match options.batch {
                1 if random.below(4) > 0 => 1,
                1 => 2 + random.below(19),
                size => size,
            };
            let events = (0..size).map(|_| {
                number += 1;
                let key = format!("{}-{}", options.source, random.below(options.keys));
                // Numbers of a later incarnation are higher; those of the key need not be without holes.
                let kseq = (options.incarnation << 32) + number;
                Moved::new(format!("{by}.{number}"), key, kseq)
            });
            let events: Vec<_> = events.collect();
            self.publish(&events, size == 1)?;
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = self.take_in(options.in_flight) => {}
            }
        }
        Ok(())
    }

    /// Writes the line before, and takes the place in the order.
    pub(crate) fn publish(&mut self, events: &[Moved], alone: bool) -> anyhow::Result<()> {
        self.op += 1;
        let op = self.op;
        let drafts: Vec<_> = events.iter().map(Moved::draft).collect::<Result<_, _>>()?;
        let (mut drafts, sent): (Vec<_>, Vec<_>) = drafts.into_iter().unzip();
        let incarnation = self.incarnation.clone();
        self.sink.see(Observation::Invoke { op, incarnation, events: sent, atomic: false });
        let answer: BoxFuture<'static, Answer> = match drafts.pop() {
            Some(draft) if alone => {
                let publish = self.bus.publish(draft);
                Box::pin(async move {
                    (op, publish.await.map(|at| vec![place(&at)]).map_err(|error| refused(&error)))
                })
            }
            last => {
                drafts.extend(last);
                let publish = self.bus.publish_all(drafts);
                Box::pin(async move {
                    let places = publish.await.map(|all| all.iter().map(place).collect());
                    (op, places.map_err(|error| refused(&error)))
                })
            }
        };
        self.under_way.push(answer);
        Ok(())
    }

    /// Writes the lines after, until at most `most` publishes are under way.
    pub(crate) async fn take_in(&mut self, most: usize) {
        while self.under_way.len() > most
            && let Some((op, answer)) = self.under_way.next().await
        {
            let (outcome, places) = match answer {
                Ok(places) => (Outcome::Ok, places),
                Err((outcome, error)) => {
                    self.failed += 1;
                    eprintln!("{}: {error}", self.incarnation);
                    (outcome, Vec::new())
                }
            };
            self.sink.see(Observation::Complete { op, outcome, places });
        }
    }
}

fn refused(error: &PublishError) -> (Outcome, String) {
    let of = |source: &LogError| outcome_of(source);
    let outcome = match error {
        PublishError::Encode(_) => Outcome::Fail,
        PublishError::Log { source, .. } => of(source),
        // Others of the batch may have been stored.
        PublishError::Batch { failed, total, source, .. } if failed == total => of(source),
        _ => Outcome::Unknown,
    };
    (outcome, error.to_string())
}

/// The events of the last incarnation whose outcome it was never told, in order.
fn unknown(options: &Options) -> anyhow::Result<Vec<Moved>> {
    let Some(last) = options.incarnation.checked_sub(1).filter(|last| *last > 0) else {
        return Ok(Vec::new());
    };
    let path = options.out.join(format!("{}.{last}.jsonl", options.source));
    let mut history = History::new();
    // It may have been killed before its first line.
    if path.exists() {
        history.read(&path).context("cannot read what the last incarnation did")?;
    }
    let mut invoked: HashMap<u64, &[Sent]> = HashMap::new();
    let mut open = BTreeSet::new();
    for line in history.lines() {
        match &line.saw {
            Observation::Invoke { op, events, .. } => {
                invoked.insert(*op, events);
                open.insert(*op);
            }
            Observation::Complete { op, .. } => {
                open.remove(op);
            }
            _ => {}
        }
    }
    let events = open.iter().filter_map(|op| invoked.get(op)).flat_map(|events| events.iter());
    Ok(events
        .map(|sent| Moved::new(sent.id.clone(), sent.key.clone().unwrap_or_default(), sent.kseq))
        .collect())
}
