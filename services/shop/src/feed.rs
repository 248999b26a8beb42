//! The till feed: publishes the sales in their order, from where the log ends.
//!
//! A kill between two publishes leaves some baskets in the log and others not; the feed reads which are there, and
//! passes over them.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use aqueduct::{
    Bus, Draft, Event, EventId, EventSet, Record, TopicName,
    core::{
        cloudevents::Incoming,
        log::{PartitionId, Start, TopicSpec},
    },
};
use shop_events::{
    BasketId,
    till::{BasketCheckedOut, BasketCheckedOutV1, old_till},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    options::Speed,
    sales::{Sales, SetAside},
};

/// Baskets in one publish at most, and publishes in flight at most.
const BATCH: usize = 500;
const IN_FLIGHT: usize = 8;
/// Records asked of the log at once.
const READ: usize = 1_000;

/// What the feed has done so far; shared with the progress line.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// Baskets in the log, those of earlier runs included.
    pub(crate) baskets: AtomicU64,
    /// The time of the last one, in microseconds since 1970.
    pub(crate) time: AtomicI64,
    /// Whether all sales are in the log.
    pub(crate) ended: AtomicBool,
}

/// Publishes until the sales end or `stop`; what was set aside is whole only at the end.
pub(crate) async fn run(
    mut sales: Sales,
    bus: Bus,
    speed: Speed,
    fed: Arc<Fed>,
    stop: CancellationToken,
) -> anyhow::Result<SetAside> {
    let stored = stored(&bus).await?;
    let mut in_flight = VecDeque::new();
    let mut pace = None;
    let mut next = sales.next_basket()?;
    while let Some(first) = next.take() {
        let mut batch = Vec::new();
        let at = first.at.as_micros();
        next = Some(first);
        while let Some(basket) = next.take_if(|_| batch.len() < BATCH) {
            if speed != Speed::Max && basket.at.as_micros() > at {
                next = Some(basket);
                break;
            }
            fed.baskets.fetch_add(1, Ordering::Relaxed);
            if !stored.contains(&basket.basket) {
                batch.push(draft(&basket)?);
            }
            next = sales.next_basket()?;
        }
        fed.time.store(at, Ordering::Relaxed);
        if batch.is_empty() {
            continue;
        }
        if let Speed::Times(times) = speed {
            let (began, first) = *pace.get_or_insert((Instant::now(), at));
            let micros = u64::try_from(at - first).unwrap_or(0) / u64::from(times.get());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(began + Duration::from_micros(micros)) => {}
            }
        }
        if stop.is_cancelled() {
            break;
        }
        in_flight.push_back(bus.publish_all(batch));
        if in_flight.len() >= IN_FLIGHT
            && let Some(oldest) = in_flight.pop_front()
        {
            oldest.await?;
        }
    }
    for rest in in_flight {
        rest.await?;
    }
    if next.is_none() && !stop.is_cancelled() {
        fed.ended.store(true, Ordering::Release);
    }
    Ok(sales.set_aside)
}

/// Old tills publish version 1. The id is the basket's, so that a repeat is recognised.
fn draft(basket: &BasketCheckedOut) -> anyhow::Result<Draft> {
    let draft = if old_till(basket.store) {
        BasketCheckedOutV1::without_amounts(basket).draft()?
    } else {
        basket.draft()?
    };
    Ok(draft.id(EventId::of_name("till", &basket.basket.to_string())).time(basket.at))
}

/// The baskets that the log holds. All are looked at: after a publish that failed, what was in flight behind it may be
/// there without it.
async fn stored(bus: &Bus) -> anyhow::Result<HashSet<BasketId>> {
    let topic = TopicName::new(BasketCheckedOut::INFO.topic)?;
    bus.log().ensure_topic(TopicSpec::new(topic.clone())).await?;
    let mut stored = HashSet::new();
    for (partition, end) in (0..).zip(bus.log().end_offsets(&topic).await?) {
        let id = PartitionId { topic: topic.clone(), partition };
        let mut reader = bus.log().cursor(&id, Start::Earliest).await?;
        while reader.position() < end {
            for record in Record::all(&reader.read(READ).await?) {
                let incoming = Incoming::read(&record, None)?;
                let (name, version) = incoming.event_type();
                let Some(payload) = incoming.payload else { bail!("{record:?} has no value") };
                stored.insert(BasketCheckedOut::read(name, version, payload)?.basket);
            }
        }
    }
    Ok(stored)
}
