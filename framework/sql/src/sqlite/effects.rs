//! The port [`Effects`], on SQLite.

use std::sync::Arc;

use aqueduct_core::{
    BoxFuture,
    effects::{Begin, Claim, Effects, EffectsError, EventMark, OutboxStatus, Place, Relay, Scope, Taken},
    log::Offset,
};

use super::{Sqlite, database::Database, gate::Turn, outbox, position, relay, transaction};
use crate::tx::Backend;

impl Effects for Database {
    fn kind(&self) -> &'static str {
        Sqlite::NAME
    }

    fn guarantee(&self) -> String {
        let Some(retention) = self.inner.event_marks else {
            return "position and event id".to_owned();
        };
        let seconds = retention.as_secs();
        let (count, unit) = match seconds {
            s if s > 0 && s.is_multiple_of(86_400) => (s / 86_400, "day"),
            s if s > 0 && s.is_multiple_of(3_600) => (s / 3_600, "hour"),
            s => (s, "second"),
        };
        format!("position and event id for {count} {unit}{}", if count == 1 { "" } else { "s" })
    }

    fn take<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Taken, EffectsError>> {
        Box::pin(async move {
            let taken = self.inner.write(Turn::Take, |conn| position::take(conn, scope)).await;
            taken.map_err(|error| {
                EffectsError::new(format!("taking {} for {}", scope.partition, scope.subscription), error)
            })
        })
    }

    fn begin(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<Begin, EffectsError>> {
        Box::pin(async move {
            transaction::begin(&self.inner, claim, place, event)
                .await
                .map_err(|error| EffectsError::new("beginning a delivery", error))
        })
    }

    fn ended(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<bool, EffectsError>> {
        Box::pin(async move {
            // After a failed sync not even what a reader sees is known to be stored.
            if let Some(over) = self.inner.gate.over() {
                return Err(EffectsError::new("looking a mark up", self.inner.gate.error(over)));
            }
            let ended = self.read(move |conn| position::ended(conn, claim, place, event.as_ref())).await;
            ended.map_err(|error| EffectsError::new("looking a mark up", error))
        })
    }

    fn raise(&self, claim: Claim, settled: Offset) -> BoxFuture<'_, Result<bool, EffectsError>> {
        Box::pin(async move {
            let turn = Turn::Raise { position: claim.row };
            let raised = self.inner.write(turn, |conn| position::raise(conn, claim, settled)).await;
            raised.map_err(|error| EffectsError::new("raising a settled offset", error))
        })
    }

    fn relay(&self, relay: Relay) -> BoxFuture<'static, Result<(), EffectsError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(relay::run(inner, relay))
    }

    fn outbox(&self) -> BoxFuture<'_, Result<OutboxStatus, EffectsError>> {
        Box::pin(async move {
            self.read(outbox::status).await.map_err(|error| EffectsError::new("looking at the outbox", error))
        })
    }
}
