//! The relay: moves staged events to the log, in id order.
//!
//! Order of a takeover: lease, open the transactional producer (which fences the older one), confirm the term in the
//! database, read both cursors, publish. Exactly once: each batch is one transaction of the log, the cursor's record with
//! it; the table's cursor follows. So a crash between the two publishes nothing twice. At least once: a takeover removes
//! the log's cursor, so that nobody trusts it later, and batches are no transactions; only the table's cursor follows.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_core::{
    BoxError, BoxFuture, Environment, LogError, LogErrorKind, NewRecord, TopicName,
    effects::{EffectsError, Relay, RelayMode, Report},
    log::CommitLog,
    name,
};
use rusqlite::Connection;

use super::{
    cursor::{self, LogCursor},
    database::Inner,
    gate::Turn,
    lease::{self, Acquired, LEASE, Leased},
    outbox::{self, Staged},
    outlet::Outlet,
};
use crate::error::DatabaseError;

const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// Rows staged by this process wake the relay; this looks for those of others.
const LOOK: Duration = Duration::from_millis(250);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// Published rows that are left lying while the relay is busy.
const UNCLEANED: usize = 10_000;

/// Why a relay does not go on as it is.
enum End {
    /// It was asked to stop.
    Stopped,
    /// Someone else leads now.
    Deposed(String),
    /// Not now: look at the log again.
    Again(BoxError),
    /// Never.
    Failed(BoxError),
}

impl From<LogError> for End {
    fn from(error: LogError) -> Self {
        match error.kind() {
            LogErrorKind::Fenced if aqueduct_core::planted("fenced-relay-goes-on") => {
                Self::Again(error.into())
            }
            LogErrorKind::Fenced => Self::Deposed(error.to_string()),
            LogErrorKind::Configuration
            | LogErrorKind::Format
            | LogErrorKind::Corrupt
            | LogErrorKind::Closed => Self::Failed(error.into()),
            _ => Self::Again(error.into()),
        }
    }
}

impl From<DatabaseError> for End {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Poisoned { .. } | DatabaseError::Closed { .. } => Self::Failed(error.into()),
            _ => Self::Again(error.into()),
        }
    }
}

pub(super) async fn run(inner: Arc<Inner>, relay: Relay) -> Result<(), EffectsError> {
    let Relay { outbox, mode, log, environment, report, mut stop } = relay;
    let failed = |error: BoxError| EffectsError::new(format!("relay of outbox {outbox}"), error);
    name::check("outbox", &outbox).map_err(|error| failed(error.into()))?;
    let Some((leased, lock)) = take(&inner, &outbox, &environment, &mut stop).await.map_err(failed)? else {
        return Ok(());
    };
    let (term, cursor) = (leased.term, leased.cursor);
    tracing::info!(%outbox, term, cursor, ?mode, "the relay leads, ordered by id");
    let mut leader = Leader {
        inner,
        outbox: outbox.clone(),
        mode,
        log,
        environment,
        report,
        leased,
        lock,
        renewed: Instant::now(),
        rows: BATCH_ROWS,
    };
    let mut backoff = FIRST_BACKOFF;
    loop {
        let before = leader.leased.cursor;
        match leader.lead(&mut stop).await {
            End::Stopped => {
                leader.release().await.map_err(|error| failed(error.into()))?;
                return Ok(());
            }
            End::Deposed(reason) => return Err(failed(format!("deposed: {reason}").into())),
            End::Failed(error) => return Err(failed(error)),
            End::Again(error) => {
                if leader.leased.cursor > before {
                    backoff = FIRST_BACKOFF;
                }
                tracing::warn!(%outbox, %error, retry_ms = backoff.as_millis(), "the relay cannot go on now");
                (leader.report)(Some(error.to_string()));
            }
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                leader.release().await.map_err(|error| failed(error.into()))?;
                return Ok(());
            }
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(LAST_BACKOFF),
        }
    }
}

/// Waits for the lease. None: stopped before.
async fn take(
    inner: &Arc<Inner>,
    outbox: &str,
    environment: &Environment,
    stop: &mut BoxFuture<'static, ()>,
) -> Result<Option<(Leased, Option<File>)>, BoxError> {
    let owner = environment.new_id();
    loop {
        let lock = lease::lock(inner.gate.path())?;
        let (known_dead, now) = (lock.is_some(), environment.now());
        let acquired =
            inner.write(Turn::Relay, |conn| lease::acquire(conn, outbox, owner, known_dead, now)).await?;
        match acquired {
            Acquired::Leased(leased) => return Ok(Some((leased, lock))),
            Acquired::Named(other) => {
                return Err(
                    format!("the outbox of this database is {other:?}, it cannot be {outbox:?} too").into()
                );
            }
            Acquired::Held => {}
        }
        tokio::select! {
            biased;
            () = &mut *stop => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

struct Leader {
    inner: Arc<Inner>,
    outbox: String,
    mode: RelayMode,
    log: Arc<dyn CommitLog>,
    environment: Environment,
    report: Report,
    leased: Leased,
    /// Held while this relay leads; none where a paused process still has it.
    lock: Option<File>,
    renewed: Instant,
    /// How many rows the next batch has. Without transactions one after a failure, so that what is refused for long has
    /// nothing else sent again with it.
    rows: usize,
}

impl Leader {
    /// Leads until something ends it.
    async fn lead(&mut self, stop: &mut BoxFuture<'static, ()>) -> End {
        let opened = tokio::select! {
            biased;
            () = &mut *stop => return End::Stopped,
            opened = self.connect() => opened,
        };
        match opened {
            Ok(mut outlet) => match self.publish(&mut outlet, stop).await {
                Ok(()) => End::Stopped,
                Err(end) => end,
            },
            Err(end) => end,
        }
    }

    async fn connect(&mut self) -> Result<Outlet, End> {
        let topic = cursor::topic(&self.log, &self.outbox).await?;
        let id = format!("aqueduct.outbox.{}", self.outbox);
        let mut producer = self.log.transactional_producer(&id).await?;
        self.renew().await?;
        let found = cursor::read(&self.log, &topic, &self.outbox).await?;
        if self.mode == RelayMode::AtLeastOnce {
            if let Some(found) = found {
                self.reconcile(Some(found)).await?;
                producer
                    .commit(vec![cursor::none(&topic, &self.outbox, self.environment.now())], None)
                    .await?;
            }
            return Ok(Outlet::Plain(self.log.producer().await?));
        }
        if self.reconcile(found).await? {
            // The log learns of the new incarnation now: the next look at it must not find the old one again.
            let event = self.leased.event.clone().unwrap_or_default();
            let mark = self.mark(&topic, self.leased.cursor, &event)?;
            producer.commit(vec![mark], None).await?;
        }
        Ok(Outlet::Transactions(producer, topic))
    }

    /// Compares the two cursors. Without a fault the log's is the table's, or ahead of it by one batch. Whether a new
    /// incarnation began.
    async fn reconcile(&mut self, log: Option<LogCursor>) -> Result<bool, End> {
        let table = self.leased.cursor;
        if aqueduct_core::planted("relay-repeats") {
            return Ok(false);
        }
        let Some(log) = log else {
            if table > 0 {
                let reason =
                    "the log holds no cursor: it is new, lost its tail, or the relay was at least once";
                self.fork((table, table), table, reason).await?;
            }
            return Ok(table > 0);
        };
        let event = if log.cursor == table {
            self.leased.event.clone()
        } else {
            let id = log.cursor;
            self.read(move |conn| outbox::event_of(conn, id)).await?
        };
        let same = log.is_of(event.as_deref()) || aqueduct_core::planted("fork-not-noticed");
        if same && log.cursor >= table {
            self.advance(log.cursor, event).await?;
            return Ok(false);
        }
        if log.cursor < table && log.is_under(self.leased.incarnation) {
            let reason = "the log went back: rows after its cursor that were kept are published again";
            self.fork((log.cursor, table), log.cursor, reason).await?;
            return Ok(true);
        }
        let reason = "the database went back: what it stages from here is published at least once";
        self.fork((table, log.cursor.max(table)), table, reason).await?;
        Ok(true)
    }

    /// The record that tells the log how far this incarnation has come.
    fn mark(&self, topic: &TopicName, cursor: i64, event: &[u8]) -> Result<NewRecord, End> {
        LogCursor::new(cursor, event, self.leased.incarnation)
            .record(topic, &self.outbox, self.environment.now())
            .map_err(|error| End::Failed(error.into()))
    }

    /// A new history, from `cursor` on.
    async fn fork(&mut self, range: (i64, i64), cursor: i64, reason: &str) -> Result<(), End> {
        let (after, upto) = range;
        tracing::error!(outbox = %self.outbox, after, upto, reason, "outbox and log differ: a new incarnation begins");
        let event = self.read(move |conn| outbox::event_of(conn, cursor)).await?;
        let incarnation = self.environment.new_id();
        let leased = Leased { term: self.leased.term, cursor, event, incarnation };
        let now = self.environment.now();
        let written = self
            .inner
            .write(Turn::Relay, |conn| lease::fork(conn, &self.outbox, &leased, range, reason, now))
            .await?;
        self.leased = leased;
        self.keep(written)
    }

    /// Publishes batch after batch; the next is read while one is in flight. `Ok`: stopped.
    async fn publish(&mut self, outlet: &mut Outlet, stop: &mut BoxFuture<'static, ()>) -> Result<(), End> {
        let inner = Arc::clone(&self.inner);
        let fetch = move |cursor, rows| {
            let inner = Arc::clone(&inner);
            async move {
                let cursor = cursor + i64::from(aqueduct_core::planted("relay-skips-a-row"));
                inner.readers.read(move |conn| outbox::after(conn, cursor, rows, BATCH_BYTES)).await
            }
        };
        let mut batch: Vec<Staged> = fetch(self.leased.cursor, self.rows).await?;
        let mut uncleaned = 0;
        loop {
            let Some(last) = batch.last() else {
                // One step of cleaning at a time: a new event does not wait for all of it.
                let more = self.clean().await?;
                uncleaned = 0;
                tokio::select! {
                    biased;
                    () = &mut *stop => return Ok(()),
                    () = self.inner.gate.staged.notified() => {}
                    () = tokio::time::sleep(if more { Duration::ZERO } else { LOOK }) => {}
                }
                if self.renewed.elapsed() > LEASE / 3 {
                    self.renew().await?;
                }
                batch = fetch(self.leased.cursor, self.rows).await?;
                continue;
            };
            let (cursor, event) = (last.id, last.event_id.clone());
            uncleaned += batch.len();
            let mark = outlet.cursor().map(|topic| self.mark(topic, cursor, &event)).transpose()?;
            let mark = mark.filter(|_| !aqueduct_core::planted("relay-cursor-apart"));
            let places: Vec<_> = match self.mode {
                RelayMode::ExactlyOnce => Vec::new(),
                RelayMode::AtLeastOnce => batch.iter().map(|row| (row.id, row.event_id.clone())).collect(),
            };
            let records = batch.drain(..).map(|staged| staged.record).chain(mark).collect();
            let (sent, next) =
                tokio::join!(outlet.send(records), fetch(cursor, (self.rows * 2).min(BATCH_ROWS)));
            if let Err((stored, error)) = sent {
                if let Some((cursor, event)) = stored.checked_sub(1).and_then(|last| places.get(last)) {
                    self.advance(*cursor, Some(event.clone())).await?;
                }
                if self.mode == RelayMode::AtLeastOnce {
                    self.rows = 1;
                }
                return Err(error.into());
            }
            self.rows = (self.rows * 2).min(BATCH_ROWS);
            self.advance(cursor, Some(event)).await?;
            (self.report)(None);
            if uncleaned > UNCLEANED && !self.clean().await? {
                uncleaned = 0;
            }
            batch = next?;
            // Looked at between batches only: one in flight ends.
            tokio::select! {
                biased;
                () = &mut *stop => return Ok(()),
                () = std::future::ready(()) => {}
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, End> {
        Ok(self.inner.readers.read(read).await?)
    }

    /// Moves the table's cursor.
    async fn advance(&mut self, cursor: i64, event: Option<Vec<u8>>) -> Result<(), End> {
        let (term, until) = (self.leased.term, lease::until(self.environment.now()));
        let written = self
            .inner
            .write(Turn::Relay, |conn| {
                lease::advance(conn, &self.outbox, term, (cursor, event.as_deref()), until)
            })
            .await?;
        self.keep(written)?;
        self.renewed = Instant::now();
        (self.leased.cursor, self.leased.event) = (cursor, event);
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), End> {
        if self.lock.is_none() {
            self.lock = lease::lock(self.inner.gate.path()).map_err(|error| End::Again(error.into()))?;
        }
        let (term, until) = (self.leased.term, lease::until(self.environment.now()));
        let written =
            self.inner.write(Turn::Relay, |conn| lease::renew(conn, &self.outbox, term, until)).await?;
        self.keep(written)?;
        self.renewed = Instant::now();
        Ok(())
    }

    /// Lets the lease run out now.
    async fn release(&self) -> Result<(), DatabaseError> {
        let term = self.leased.term;
        self.inner.write(Turn::Relay, |conn| lease::renew(conn, &self.outbox, term, 0)).await.map(drop)
    }

    async fn clean(&self) -> Result<bool, End> {
        let term = self.leased.term;
        // Looked up first: an idle relay shall not write.
        let due = self.read(lease::cleanable).await?;
        if !due {
            return Ok(false);
        }
        Ok(self.inner.write(Turn::Relay, |conn| lease::clean(conn, &self.outbox, term)).await?)
    }

    fn keep(&self, written: bool) -> Result<(), End> {
        if written {
            return Ok(());
        }
        Err(End::Deposed(format!("a newer relay leads, term {} is over", self.leased.term)))
    }
}
