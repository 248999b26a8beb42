//! The bus: where services publish.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aqueduct_core::{
    EncodeError, Environment, IntoDraft, LogError, LogErrorKind, NewRecord, TopicName,
    log::{CommitLog, Position},
};

use bytes::Bytes;

use crate::gate::{Admission, Gate, Told};

/// A connection to a commit log. Cheap to clone; all clones share one order.
#[derive(Debug, Clone)]
pub struct Bus {
    log: Arc<dyn CommitLog>,
    gate: Arc<Gate>,
    environment: Environment,
    source: Arc<str>,
    max_record_bytes: usize,
}

/// A publish that was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event does not encode; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The log did not take the event.
    #[error("event with key {key} was not stored in {topic}: {source}")]
    Log {
        /// The topic.
        topic: String,
        /// The key, escaped.
        key: String,
        /// What the log said.
        source: LogError,
    },
    /// The log did not take some events of a batch.
    #[error("{failed} of {total} events were not stored, the first is number {first} (from 0): {source}")]
    Batch {
        /// How many were not stored.
        failed: usize,
        /// How many there were.
        total: usize,
        /// The index of the first that was not stored.
        first: usize,
        /// What the log said of it.
        source: LogError,
    },
}

impl Bus {
    /// A bus on an open log. Events are published with the source `aqueduct` until [`Bus::with_source`] says more.
    ///
    /// # Errors
    /// The log gives no producer.
    pub async fn open(log: Arc<dyn CommitLog>, environment: Environment) -> Result<Self, LogError> {
        let gate = Gate::new(log.producer().await?);
        let max_record_bytes = log.capabilities().max_record_bytes;
        Ok(Self { log, gate, environment, source: Arc::from("aqueduct"), max_record_bytes })
    }

    /// The same bus for another service: what `ce_source` says.
    #[must_use]
    pub fn with_source(&self, source: &str) -> Self {
        Self { source: Arc::from(source), ..self.clone() }
    }

    /// What `ce_source` says of events published here.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn CommitLog> {
        &self.log
    }

    /// The clock and the random source.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Publishes one event. Its place in the order is taken at the call, not at the first poll; `Ok` means stored.
    /// Dropping the future does not take the event back.
    ///
    /// # Errors
    /// The future resolves to an error when the event does not encode or the log did not store it.
    pub fn publish(&self, event: impl IntoDraft) -> Publish {
        let mut place = None;
        let started = self.encode(event).and_then(|record| {
            let (topic, key) = place.insert((record.topic.clone(), record.key.clone()));
            match self.check_sizes(std::slice::from_ref(&record)) {
                Ok(()) => Ok(self.gate.enter([record])),
                Err((_, source)) => Err(log_error(topic, key.as_deref(), source)),
            }
        });
        Publish { started: Some(started), place }
    }

    /// Publishes a batch in its order: one place, one wait. The positions are in the order of the events.
    ///
    /// # Errors
    /// The future resolves to an error when an event does not encode (then none is sent) or the log did not store
    /// all of them.
    pub fn publish_all<I>(&self, events: I) -> PublishAll
    where
        I: IntoIterator,
        I::Item: IntoDraft,
    {
        let records: Result<Vec<_>, _> = events.into_iter().map(|event| self.encode(event)).collect();
        let started = records.and_then(|records| {
            let total = records.len();
            self.enter(records).map_err(|(first, source)| PublishError::Batch {
                failed: total,
                total,
                first,
                source,
            })
        });
        PublishAll { started: Some(started) }
    }

    /// Publishes records that are complete already, as [`Bus::publish_all`] does.
    pub(crate) fn publish_records(&self, records: Vec<NewRecord>) -> PublishAll {
        let total = records.len();
        let started = self.enter(records).map_err(|(first, source)| PublishError::Batch {
            failed: total,
            total,
            first,
            source,
        });
        PublishAll { started: Some(started) }
    }

    fn encode(&self, event: impl IntoDraft) -> Result<NewRecord, PublishError> {
        Ok(event.into_draft()?.into_record(&self.source, &self.environment))
    }

    /// Size is checked before a place is taken, so that an oversized event holds nothing up.
    fn enter(&self, records: Vec<NewRecord>) -> Result<Admission, (usize, LogError)> {
        self.check_sizes(&records)?;
        Ok(self.gate.enter(records))
    }

    /// Names the first record that the log would not take.
    pub(crate) fn check_sizes(&self, records: &[NewRecord]) -> Result<(), (usize, LogError)> {
        for (index, record) in records.iter().enumerate() {
            if aqueduct_core::planted("oversized-takes-a-place") {
                break;
            }
            let (size, limit) = (record.size(), self.max_record_bytes);
            if size > limit {
                let key = shown_key(record.key.as_deref());
                let message = format!(
                    "a record of {size} bytes for {} (key {key}) is over the limit of {limit} (max_record_bytes)",
                    record.topic
                );
                return Err((index, LogError::new(LogErrorKind::RecordTooLarge, message)));
            }
        }
        Ok(())
    }
}

/// A publish under way.
#[derive(Debug)]
#[must_use = "the event is on its way, but whether it was stored is known only after an await"]
pub struct Publish {
    started: Option<Result<Admission, PublishError>>,
    place: Option<(TopicName, Option<Bytes>)>,
}

impl Future for Publish {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match ready!(poll_started(&mut self.started, cx)) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Told::One(outcome)) => outcome,
            Ok(Told::All(mut outcomes)) => outcomes.pop().unwrap_or_else(|| Err(crate::gate::no_outcome())),
        };
        Poll::Ready(outcome.map_err(|source| match &self.place {
            Some((topic, key)) => log_error(topic, key.as_deref(), source),
            None => PublishError::Batch { failed: 1, total: 1, first: 0, source },
        }))
    }
}

/// A batch under way.
#[derive(Debug)]
#[must_use = "the events are on their way, but whether they were stored is known only after an await"]
pub struct PublishAll {
    started: Option<Result<Admission, PublishError>>,
}

impl Future for PublishAll {
    type Output = Result<Vec<Position>, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcomes = match ready!(poll_started(&mut self.started, cx)) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(Told::One(outcome)) => vec![outcome],
            Ok(Told::All(outcomes)) => outcomes,
        };
        let total = outcomes.len();
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        let mut positions = Vec::with_capacity(total);
        for (first, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(position) => positions.push(position),
                Err(source) => return Poll::Ready(Err(PublishError::Batch { failed, total, first, source })),
            }
        }
        Poll::Ready(Ok(positions))
    }
}

fn poll_started(
    started: &mut Option<Result<Admission, PublishError>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Told, PublishError>> {
    if let Some(Ok(admission)) = started {
        let told = ready!(Pin::new(admission).poll(cx));
        *started = None;
        return Poll::Ready(Ok(told));
    }
    match started.take() {
        Some(Err(error)) => Poll::Ready(Err(error)),
        // Polled again after it was ready; the standard leaves that open, and waiting for ever is the mildest.
        _ => Poll::Pending,
    }
}

fn log_error(topic: &TopicName, key: Option<&[u8]>, source: LogError) -> PublishError {
    PublishError::Log { topic: topic.to_string(), key: shown_key(key), source }
}

/// Bytes of a key that an error quotes.
const SHOWN: usize = 64;

fn shown_key(key: Option<&[u8]>) -> String {
    match key {
        None => "none".to_owned(),
        Some(key) if key.len() > SHOWN => format!("{}.. ({} bytes)", key[..SHOWN].escape_ascii(), key.len()),
        Some(key) => key.escape_ascii().to_string(),
    }
}
