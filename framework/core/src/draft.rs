//! Events on their way out: encoded, not yet published.

use bytes::Bytes;

use crate::{
    cloudevents::Outgoing,
    envelope::{Envelope, EventId},
    environment::{Environment, Timestamp},
    error::{EncodeError, EncodeErrorKind},
    event::{Event, EventInfo, EventSet},
    name::{self, TopicName},
    record::{Headers, NewRecord},
    trace::TraceContext,
};

/// Room for key, payload and headers of a usual event; a larger one grows.
const ROOM: usize = 512;

/// An event, encoded, with what its envelope shall say. Attributes that are not set are filled in when it is
/// published or staged.
#[derive(Debug, Clone)]
#[must_use = "a draft does nothing until it is published"]
pub struct Draft {
    pub(crate) info: EventInfo,
    pub(crate) topic: TopicName,
    /// The key, then the payload; headers follow when it becomes a record. One piece of memory for all three.
    data: Vec<u8>,
    /// How long the key is, where there is one.
    key: Option<usize>,
    pub(crate) id: Option<EventId>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) correlation: Option<EventId>,
    pub(crate) causation: Option<EventId>,
    pub(crate) trace: Option<TraceContext>,
}

impl Draft {
    /// Encodes one event.
    ///
    /// # Errors
    /// The name or the topic is not one, the key is empty, or the payload does not serialize.
    pub fn of<E: Event>(event: &E) -> Result<Self, EncodeError> {
        let fail = |kind| EncodeError { event: E::INFO.event, kind };
        // A hand-written `Event` may not have gone through `EventType::new`. Looked at once per type, by the compiler.
        if const { name::fault(E::INFO.event.name).is_some() || name::fault(E::INFO.topic).is_some() } {
            name::check("event type", E::INFO.event.name).map_err(|error| fail(error.into()))?;
            name::check("topic", E::INFO.topic).map_err(|error| fail(error.into()))?;
        }
        let key = event.key();
        let mut data = Vec::with_capacity(ROOM);
        if let Some(key) = &key {
            if key.is_empty() {
                return Err(fail(EncodeErrorKind::EmptyKey));
            }
            data.extend_from_slice(key.as_bytes());
        }
        let key = key.map(|_| data.len());
        serde_json::to_writer(&mut data, event).map_err(|error| fail(error.into()))?;
        Ok(Self {
            info: E::INFO,
            topic: TopicName::checked(E::INFO.topic),
            data,
            key,
            id: None,
            time: None,
            correlation: None,
            causation: None,
            trace: None,
        })
    }

    /// Gives the event an id of the caller's: a repeat with the same id is recognised downstream.
    pub fn id(self, id: impl Into<EventId>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Says when the fact happened; otherwise it is the time of publishing.
    pub fn time(self, time: Timestamp) -> Self {
        Self { time: Some(time), ..self }
    }

    /// Names the first event of the conversation that this one belongs to.
    pub fn correlation(self, id: impl Into<EventId>) -> Self {
        Self { correlation: Some(id.into()), ..self }
    }

    /// Continues a trace (W3C Trace Context).
    pub fn trace(self, trace: TraceContext) -> Self {
        Self { trace: Some(trace), ..self }
    }

    /// The type of the event.
    #[must_use]
    pub fn info(&self) -> EventInfo {
        self.info
    }

    /// The encoded payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.data[self.key.unwrap_or(0)..]
    }

    /// Marks this event as a consequence of `cause`, with an id derived from it: `scope` is the subscription,
    /// `index` the place among what the handler returned. The same delivery gives the same id again.
    pub fn caused_by(self, cause: &Envelope, scope: &str, index: usize, environment: &Environment) -> Self {
        let id = self.id.unwrap_or_else(|| cause.id.derive(&cause.source, scope, index));
        Self {
            id: Some(id),
            correlation: self
                .correlation
                .or_else(|| Some(cause.correlation.clone().unwrap_or_else(|| cause.id.clone()))),
            causation: Some(cause.id.clone()),
            trace: self.trace.or_else(|| cause.trace.map(|trace| trace.child(environment.random_u64()))),
            ..self
        }
    }

    /// The record, with the envelope in its headers; a missing id is made here.
    #[must_use]
    pub fn into_record(self, source: &str, environment: &Environment) -> NewRecord {
        let now = environment.now();
        let id = self.id.unwrap_or_else(|| environment.new_id_at(now).into());
        let (mut data, key) = (self.data, self.key);
        let payload = key.unwrap_or(0)..data.len();
        let outgoing = Outgoing {
            id: &id,
            name: self.info.event.name,
            version: self.info.event.version,
            source,
            subject: None,
            correlation: self.correlation.as_ref(),
            causation: self.causation.as_ref(),
            trace: self.trace,
        };
        outgoing.append_to(&mut data);
        let data = Bytes::from(data);
        NewRecord {
            topic: self.topic,
            partition: None,
            key: key.map(|length| data.slice(..length)),
            headers: Headers::from_block(data.slice(payload.end..)),
            value: Some(data.slice(payload)),
            timestamp: self.time.unwrap_or(now),
        }
    }
}

/// What can be published: a reference to an event, or a [`Draft`] with attributes of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    note = "publish a reference to an event, `&event`, or a `Draft`"
)]
pub trait IntoDraft {
    /// Encodes it.
    ///
    /// # Errors
    /// As [`Draft::of`].
    fn into_draft(self) -> Result<Draft, EncodeError>;
}

#[diagnostic::do_not_recommend]
impl<E: EventSet> IntoDraft for &E {
    fn into_draft(self) -> Result<Draft, EncodeError> {
        self.draft()
    }
}

impl IntoDraft for Draft {
    fn into_draft(self) -> Result<Draft, EncodeError> {
        Ok(self)
    }
}

/// What a handler may return: nothing, an event, an `Option`, a `Vec`, or a tuple of these.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "return `Handled<..>` of nothing, an event, an `Option`, a `Vec`, or a tuple of these"
)]
pub trait IntoEvents {
    /// Encodes each event into `drafts`, in order.
    ///
    /// # Errors
    /// As [`Draft::of`].
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError>;
}

#[diagnostic::do_not_recommend]
impl<E: EventSet> IntoEvents for E {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        drafts.push(self.draft()?);
        Ok(())
    }
}

impl IntoEvents for () {
    fn append_to(self, _: &mut Vec<Draft>) -> Result<(), EncodeError> {
        Ok(())
    }
}

impl IntoEvents for Draft {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        drafts.push(self);
        Ok(())
    }
}

impl<T: IntoEvents> IntoEvents for Option<T> {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        self.map_or(Ok(()), |events| events.append_to(drafts))
    }
}

impl<T: IntoEvents> IntoEvents for Vec<T> {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        self.into_iter().try_for_each(|events| events.append_to(drafts))
    }
}

impl<A: IntoEvents, B: IntoEvents> IntoEvents for (A, B) {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        self.0.append_to(drafts)?;
        self.1.append_to(drafts)
    }
}

impl<A: IntoEvents, B: IntoEvents, C: IntoEvents> IntoEvents for (A, B, C) {
    fn append_to(self, drafts: &mut Vec<Draft>) -> Result<(), EncodeError> {
        self.0.append_to(drafts)?;
        self.1.append_to(drafts)?;
        self.2.append_to(drafts)
    }
}
