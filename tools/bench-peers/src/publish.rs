//! Callers that wait for each publish, by RustStream's publish builder.

use std::{
    io::BufRead,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, ensure};
use clap::Args;
use ruststream::{Broker, ConnectedBroker, HeaderMap, Str};
use ruststream_rdkafka::{KafkaPublisher, PARTITION_KEY_HEADER, prelude::*};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    Place,
    cost::{Cost, Stopwatch},
    event::Sold,
};

/// The headers whose values are always the same, as our side writes them.
const FIXED: [(&str, &str); 3] =
    [("ce_specversion", "1.0"), ("ce_type", "bench.Sold"), ("ce_source", "aqueduct")];

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// How many callers wait at once.
    #[arg(long)]
    waiting: NonZeroUsize,
}

/// Publishes as many events as asked for. The cost begins before the broker is connected to, and ends when the last event is
/// stored.
pub(crate) async fn run(options: Options) -> anyhow::Result<Cost> {
    let Options { place, waiting } = options;
    let pool = pool()?;
    let count = usize::try_from(place.count)?;
    let stopwatch = Stopwatch::start();
    let broker = KafkaBroker::new([&place.brokers])
        .producer_config("acks", "all")
        .producer_config("enable.idempotence", "true");
    let properties = place.properties.iter();
    let broker = properties.fold(broker, |broker, (name, value)| broker.producer_config(name, value));
    let connected = broker.connect().await?;
    let publisher = connected.publisher(Publish::default());
    let (topic, next): (Arc<str>, _) = (place.topic.into(), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..waiting.get() {
        let (publisher, topic) = (publisher.clone(), Arc::clone(&topic));
        let (pool, next) = (Arc::clone(&pool), Arc::clone(&next));
        callers.spawn(async move {
            let mut stored = 0;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return anyhow::Ok(stored);
                }
                one(&publisher, &topic, &pool[at % pool.len()]).await?;
                stored += 1;
            }
        });
    }
    let mut stored = 0;
    while let Some(ended) = callers.join_next().await {
        stored += ended??;
    }
    let cost = stopwatch.stop(place.count);
    ensure!(stored == count, "of {count} events {stored} were stored");
    let left = connected.shutdown().await?.unflushed_records();
    ensure!(left == 0, "{left} events were left in the producer");
    Ok(cost)
}

async fn one(publisher: &KafkaPublisher, topic: &str, sold: &Sold) -> anyhow::Result<()> {
    let mut headers = HeaderMap::with_capacity(FIXED.len() + 2);
    for (name, value) in FIXED {
        headers.insert(Str::from_static(name), value);
    }
    headers.insert(Str::from_static("ce_id"), Uuid::now_v7().to_string());
    headers.insert(Str::from_static(PARTITION_KEY_HEADER), sold.account.clone());
    publisher.message(sold).with_headers(headers).to(topic).publish().await?;
    Ok(())
}

/// The events of standard input.
fn pool() -> anyhow::Result<Arc<[Sold]>> {
    let events = std::io::stdin().lock().lines().map(|line| anyhow::Ok(serde_json::from_str(&line?)?));
    let pool: Arc<[Sold]> = events.collect::<anyhow::Result<_>>().context("standard input must be events")?;
    ensure!(!pool.is_empty(), "there is no event in standard input");
    Ok(pool)
}
