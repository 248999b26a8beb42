//! The till feed: publishes the sales in their order, from where the log ends.
//!
//! A kill between two publishes leaves a prefix of each partition in the log, since the log keeps the order of a
//! publisher. So the feed reads the last basket of each partition and passes over all that are not after it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use aqueduct::{
    Bus, Draft, Event, EventId, EventSet, Key, Record, TopicName,
    core::{
        cloudevents::Incoming,
        key::partition_of,
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

/// Where each partition ends: time and number of its last basket.
type Ends = Vec<Option<(i64, BasketId)>>;

/// Publishes until the sales end or `stop`; what was set aside is whole only at the end.
pub(crate) async fn run(
    mut sales: Sales,
    bus: Bus,
    speed: Speed,
    fed: Arc<Fed>,
    stop: CancellationToken,
) -> anyhow::Result<SetAside> {
    let ends = ends(&bus).await?;
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
            if !stored(&ends, &basket) {
                batch.push(draft(&basket)?);
            }
            next = sales.next_basket()?;
        }
        if batch.is_empty() {
            continue;
        }
        fed.time.store(at, Ordering::Relaxed);
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

fn stored(ends: &Ends, basket: &BasketCheckedOut) -> bool {
    let partitions = i32::try_from(ends.len()).unwrap_or(i32::MAX);
    let partition = partition_of(Key::of(&basket.store).as_bytes(), partitions);
    let end = usize::try_from(partition).ok().and_then(|index| ends.get(index).copied().flatten());
    end.is_some_and(|end| (basket.at.as_micros(), basket.basket) <= end)
}

/// Reads the last basket of each partition.
async fn ends(bus: &Bus) -> anyhow::Result<Ends> {
    let topic = TopicName::new(BasketCheckedOut::INFO.topic)?;
    bus.log().ensure_topic(TopicSpec::new(topic.clone())).await?;
    let mut ends = Vec::new();
    for (partition, end) in (0..).zip(bus.log().end_offsets(&topic).await?) {
        if end == 0 {
            ends.push(None);
            continue;
        }
        let id = PartitionId { topic: topic.clone(), partition };
        let mut reader = bus.log().cursor(&id, Start::Offset(end - 1)).await?;
        let batch = reader.read(1).await?;
        let record = Record::new(batch, 0).with_context(|| format!("{id} has no record at its end"))?;
        let incoming = Incoming::read(&record, None)?;
        let (name, version) = incoming.event_type();
        let Some(payload) = incoming.payload else { bail!("{record:?} has no value") };
        let basket = BasketCheckedOut::read(name, version, payload)?;
        ends.push(Some((basket.at.as_micros(), basket.basket)));
    }
    Ok(ends)
}
