//! Metrics in the OpenMetrics text format, gathered when they are asked for.

use std::fmt;

use aqueduct_core::{BoxError, Environment};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::status::Status;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Subscription {
    app: String,
    subscription: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct App {
    app: String,
}

/// The text of all metrics of an app.
pub(crate) async fn text(status: &Status, environment: &Environment) -> Result<String, BoxError> {
    let mut registry = Registry::with_prefix("aqueduct");
    let ended = Family::<Subscription, Counter>::default();
    let retried = Family::<Subscription, Counter>::default();
    let dead = Family::<Subscription, Counter>::default();
    let in_flight = Family::<Subscription, Gauge>::default();
    let stopped = Family::<Subscription, Gauge>::default();
    let parked = Family::<Subscription, Gauge>::default();
    let stalled = Family::<Subscription, Gauge>::default();
    let lag = Family::<Subscription, Gauge>::default();
    registry.register("deliveries_ended", "Deliveries that ended", ended.clone());
    registry.register("attempts_retried", "Attempts that failed and were tried again", retried.clone());
    registry.register("dead_letters", "Records set aside for good", dead.clone());
    registry.register("deliveries_in_flight", "Deliveries above the settled offset", in_flight.clone());
    registry.register("partitions_stopped", "Partitions that stopped", stopped.clone());
    registry.register("records_parked", "Records that wait with their parked keys", parked.clone());
    registry.register(
        "partitions_stalled",
        "Partitions without progress, explained in readiness",
        stalled.clone(),
    );
    registry.register(
        "lag_records",
        "Records between settled offsets and the ends of the topics",
        lag.clone(),
    );
    let app = status.name().to_owned();
    let label = |subscription: &str| Subscription { app: app.clone(), subscription: subscription.to_owned() };
    for subscription in status.subscriptions() {
        let label = label(&subscription.name);
        ended.get_or_create(&label).inc_by(subscription.ended);
        retried.get_or_create(&label).inc_by(subscription.retried);
        dead.get_or_create(&label).inc_by(subscription.dead_letters);
        let partitions = subscription.partitions.values();
        let flying: usize = partitions.clone().map(|partition| partition.in_flight).sum();
        in_flight.get_or_create(&label).set(count(flying));
        let waiting: usize = partitions.clone().map(|partition| partition.parked).sum();
        parked.get_or_create(&label).set(count(waiting));
        let standing = partitions.clone().filter(|partition| partition.stall.is_some()).count();
        stalled.get_or_create(&label).set(count(standing));
        stopped
            .get_or_create(&label)
            .set(count(partitions.filter(|partition| partition.stopped.is_some()).count()));
    }
    for each in status.lag().await? {
        lag.get_or_create(&label(&each.subscription)).set(each.records);
    }
    if let Some(outbox) = status.outbox().await? {
        let waiting = Family::<App, Gauge>::default();
        let age = Family::<App, Gauge>::default();
        registry.register(
            "outbox_waiting",
            "Staged events that the log has not acknowledged",
            waiting.clone(),
        );
        registry.register("outbox_oldest_age_milliseconds", "Age of the oldest staged event", age.clone());
        let label = App { app };
        waiting.get_or_create(&label).set(outbox.waiting);
        let oldest = outbox.oldest.map_or(0, |oldest| environment.now().as_millis() - oldest.as_millis());
        age.get_or_create(&label).set(oldest.max(0));
    }
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|fmt::Error| "the metrics cannot be written")?;
    Ok(text)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
