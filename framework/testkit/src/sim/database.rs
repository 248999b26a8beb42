//! A service's database in memory: the port [`Effects`], whose writes apply when they commit.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aqueduct_core::{
    BoxFuture, NewRecord,
    effects::{
        Begin, Claim, CommitError, Effects, EffectsError, EventMark, OutboxStatus, Place, Relay, Scope,
        Taken, Transaction,
    },
    environment::Clock,
    log::Offset,
};
use aqueduct_memory::{Chances, Counts};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::sleep};

use super::{
    dice::Dice,
    process::Process,
    relay,
    tables::{Conflict, Delivered, Marked, Tables},
    tx::{KIND, Lease},
    weather::{Verdict, Weather},
};

/// What every handle of one database shares; it outlives processes.
#[derive(Debug)]
pub(crate) struct Stored {
    tables: Mutex<Tables>,
    weather: Mutex<Weather>,
    /// Told when events were staged.
    pub(crate) staged: Notify,
}

impl Stored {
    pub(crate) fn new(dice: Dice) -> Arc<Self> {
        let weather = Mutex::new(Weather::fair(dice));
        Arc::new(Self { tables: Mutex::default(), weather, staged: Notify::new() })
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turn(&self, chances: Chances) {
        self.weather().turn(chances);
    }

    pub(crate) fn outage(&self, outage: bool) {
        self.weather().outage(outage);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.weather().counts()
    }
}

/// The database as one process sees it. Every process of a service has a handle of the same one.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) stored: Arc<Stored>,
    pub(crate) process: Arc<Process>,
}

/// How a call ended that did not say `Ok`.
#[derive(Debug)]
enum Failed {
    Not(EffectsError),
    Unknown(EffectsError),
}

impl From<Failed> for EffectsError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Not(error) | Failed::Unknown(error) => error,
        }
    }
}

impl Database {
    /// One call: it may be late, be refused, or have an outcome that nobody knows.
    async fn call<T>(&self, what: &str, act: impl FnOnce(&mut Tables) -> T) -> Result<T, Failed> {
        self.process.turn().await.map_err(Failed::Not)?;
        let fate = self.stored.weather().fate();
        if !fate.before.is_zero() {
            sleep(fate.before).await;
            self.process.turn().await.map_err(Failed::Not)?;
        }
        let failed = || EffectsError::new(what, "failed on command");
        let done = match fate.verdict {
            Verdict::Pass => Ok(act(&mut self.stored.tables())),
            Verdict::Refused => Err(Failed::Not(failed())),
            Verdict::RequestLost => Err(Failed::Unknown(failed())),
            Verdict::AnswerLost => {
                act(&mut self.stored.tables());
                Err(Failed::Unknown(failed()))
            }
        };
        if !fate.after.is_zero() {
            sleep(fate.after).await;
        }
        self.process.turn().await.map_err(Failed::Unknown)?;
        done
    }
}

impl Effects for Database {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn guarantee(&self) -> String {
        "position and event id".to_owned()
    }

    fn take<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Taken, EffectsError>> {
        Box::pin(async move {
            let group = self.process.given(&scope.partition);
            Ok(self.call("taking a partition", |tables| tables.take(scope, group)).await?)
        })
    }

    fn begin(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<Begin, EffectsError>> {
        Box::pin(async move {
            let delivered = Delivered { claim, place, event };
            let found = self.call("beginning a delivery", |tables| {
                let found = tables.look(delivered);
                if found == Marked::Ended {
                    tables.mark_position(claim, place);
                }
                (found, tables.group_generation(claim))
            });
            let (marked, generation) = found.await?;
            Ok(match marked {
                Marked::Ended => Begin::Ended,
                Marked::Fenced => Begin::Fenced,
                Marked::New => Begin::New(Box::new(Delivery {
                    database: self.clone(),
                    delivered,
                    lease: Some(Lease::new(&self.stored, generation)),
                    buffer: Arc::default(),
                    staged: Vec::new(),
                })),
            })
        })
    }

    fn ended(
        &self,
        claim: Claim,
        place: Place,
        event: Option<EventMark>,
    ) -> BoxFuture<'_, Result<bool, EffectsError>> {
        Box::pin(async move {
            let delivered = Delivered { claim, place, event };
            Ok(self.call("looking a mark up", |tables| tables.ended(delivered)).await?)
        })
    }

    fn raise(&self, claim: Claim, settled: Offset) -> BoxFuture<'_, Result<bool, EffectsError>> {
        Box::pin(async move {
            Ok(self.call("raising a settled offset", |tables| tables.raise(claim, settled)).await?)
        })
    }

    fn relay(&self, relay: Relay) -> BoxFuture<'static, Result<(), EffectsError>> {
        Box::pin(relay::run(self.clone(), relay))
    }

    fn outbox(&self) -> BoxFuture<'_, Result<OutboxStatus, EffectsError>> {
        Box::pin(async move {
            self.process.turn().await?;
            let tables = self.stored.tables();
            Ok(OutboxStatus {
                waiting: i64::try_from(tables.outbox.len()).unwrap_or(i64::MAX),
                oldest: tables.outbox.front().map(|staged| staged.at),
            })
        })
    }
}

/// The transaction of one delivery.
struct Delivery {
    database: Database,
    delivered: Delivered,
    lease: Option<Lease>,
    buffer: super::tx::Shared,
    staged: Vec<NewRecord>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("delivered", &self.delivered).finish_non_exhaustive()
    }
}

impl Transaction for Delivery {
    fn lease(&mut self) -> Option<Box<dyn Any + Send>> {
        let lease = self.lease.take()?;
        self.buffer = lease.buffer();
        Some(Box::new(lease))
    }

    fn stage(&mut self, record: NewRecord) {
        self.staged.push(record);
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), CommitError>> {
        Box::pin(async move {
            let Self { database, delivered, lease, buffer, staged } = *self;
            drop(lease);
            let Some(buffer) = Arc::into_inner(buffer) else {
                return Err(CommitError::Refused("the handler kept its Tx beyond its return".into()));
            };
            let buffer = buffer.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (now, stages) = (database.process.clock.now(), !staged.is_empty());
            let committed = database
                .call("committing a delivery", |tables| tables.commit(delivered, buffer, staged, now))
                .await;
            match committed {
                Ok(Ok(())) => {
                    if stages {
                        database.stored.staged.notify_waiters();
                    }
                    Ok(())
                }
                Ok(Err(conflict)) => {
                    let why = match conflict {
                        Conflict::Claim => "the partition was taken, or the delivery ended elsewhere",
                        Conflict::Row => "a row that was read has been written since",
                    };
                    Err(CommitError::NotCommitted(EffectsError::new("committing a delivery", why)))
                }
                Err(Failed::Not(error)) => Err(CommitError::NotCommitted(error)),
                Err(Failed::Unknown(error)) => Err(CommitError::Unknown(error)),
            }
        })
    }
}

/// The committed rows of a run's database, for an invariant.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a>(pub(crate) &'a Tables);

impl Rows<'_> {
    /// The value of a row.
    ///
    /// # Errors
    /// It is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, serde_json::Error> {
        self.0.rows.get(key).map(|row| serde_json::from_slice(&row.value)).transpose()
    }

    /// The rows whose keys begin with `prefix`, in order of keys, each with the number of the transaction that wrote it.
    ///
    /// # Errors
    /// One is not a `T`.
    pub fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, u64, T)>, serde_json::Error> {
        let rows = self.0.rows.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        rows.map(|(key, row)| Ok((key.clone(), row.written, serde_json::from_slice(&row.value)?))).collect()
    }
}
