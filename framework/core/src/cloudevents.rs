//! CloudEvents 1.0, Kafka protocol binding (<https://github.com/cloudevents/spec>, `kafka-protocol-binding.md`).
//!
//! Written in binary mode: the value is the payload alone, attributes are `ce_` headers, and only those that the
//! record does not already say. Read in binary and in structured mode; a record without attributes is of the
//! topic's default type.

use std::{borrow::Cow, fmt::Write};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    envelope::{Envelope, EventId},
    environment::Timestamp,
    error::DecodeError,
    event::EventType,
    record::{Headers, HeadersBuilder, Record},
    trace::TraceContext,
};

/// The headers for an envelope.
#[must_use]
pub fn write(envelope: &Envelope) -> Headers {
    let mut headers = HeadersBuilder::new();
    let mut text = String::with_capacity(48);
    let mut put = |name: &str, value: std::fmt::Arguments<'_>| {
        text.clear();
        // Writing to a String cannot fail.
        let _ = text.write_fmt(value);
        headers.push(name.as_bytes(), Some(text.as_bytes()));
    };
    put("ce_specversion", format_args!("1.0"));
    put("ce_id", format_args!("{}", envelope.id));
    if envelope.version > 1 {
        put("ce_type", format_args!("{}.v{}", envelope.name, envelope.version));
    } else {
        put("ce_type", format_args!("{}", envelope.name));
    }
    put("ce_source", format_args!("{}", envelope.source));
    if let Some(subject) = &envelope.subject {
        put("ce_subject", format_args!("{subject}"));
    }
    if let Some(id) = envelope.correlation.as_ref().filter(|id| **id != envelope.id) {
        put("ce_correlationid", format_args!("{id}"));
    }
    if let Some(id) = &envelope.causation {
        put("ce_causationid", format_args!("{id}"));
    }
    if let Some(trace) = envelope.trace.filter(|trace| trace.sampled()) {
        put("traceparent", format_args!("{trace}"));
    }
    headers.build()
}

/// Splits a `ce_type` into name and version: `.vN` at the end, N from 2 on without leading zeros.
#[must_use]
pub fn split_type(text: &str) -> (&str, u32) {
    if let Some((name, digits)) = text.rsplit_once(".v")
        && let Ok(version) = digits.parse::<u32>()
        && version > 1
        && !digits.starts_with(['0', '+'])
        && !name.is_empty()
    {
        return (name, version);
    }
    (text, 1)
}

/// A record read as an event: its type, its payload, and the rest on demand.
#[derive(Debug)]
pub struct Incoming<'a> {
    record: &'a Record,
    name: Cow<'a, str>,
    version: u32,
    time: Timestamp,
    /// The payload; none where the record has no value.
    pub payload: Option<&'a [u8]>,
    attributes: Attributes<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Attributes<'a> {
    #[serde(borrow, default)]
    specversion: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    type_text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    causationid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl<'a> Incoming<'a> {
    /// Reads what stands on a record. `default` is the topic's type for records without attributes.
    ///
    /// # Errors
    /// An attribute is repeated or not UTF-8, the specification version is not 1.x, there is no type, `ce_time` is not
    /// RFC 3339, or a structured event does not parse.
    pub fn read(record: &'a Record, default: Option<EventType>) -> Result<Self, DecodeError> {
        let mut attributes = Attributes::default();
        let mut structured = false;
        let mut fault = None;
        record.visit_headers(&mut |header| {
            let Some(value) = header.value else { return };
            let slot = match header.name {
                b"ce_specversion" => &mut attributes.specversion,
                b"ce_id" => attributes.id.get_or_insert_default(),
                b"ce_type" => attributes.type_text.get_or_insert_default(),
                b"ce_source" => attributes.source.get_or_insert_default(),
                b"ce_subject" => attributes.subject.get_or_insert_default(),
                b"ce_time" => attributes.time.get_or_insert_default(),
                b"ce_correlationid" => attributes.correlationid.get_or_insert_default(),
                b"ce_causationid" => attributes.causationid.get_or_insert_default(),
                b"traceparent" => attributes.traceparent.get_or_insert_default(),
                b"content-type" => {
                    structured = value.starts_with(b"application/cloudevents+json");
                    return;
                }
                _ => return,
            };
            let name = || header.name.escape_ascii().to_string();
            if !slot.is_empty() {
                fault.get_or_insert(DecodeError::Header {
                    name: name(),
                    reason: "it is there twice".to_owned(),
                });
            }
            match std::str::from_utf8(value) {
                Ok(text) => *slot = Cow::Borrowed(text),
                Err(_) => {
                    let shown = value.iter().take(40).copied().collect::<Vec<_>>().escape_ascii().to_string();
                    fault.get_or_insert(DecodeError::Header {
                        name: name(),
                        reason: format!("it is not UTF-8: {shown}"),
                    });
                }
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        let mut payload = record.value();
        if structured {
            let value = record.value().unwrap_or_default();
            attributes = serde_json::from_slice(value).map_err(DecodeError::Structured)?;
            payload = attributes.data.map(|data| data.get().as_bytes());
        }
        let (name, version) = match (attributes.type_text.take(), default) {
            (Some(Cow::Borrowed(text)), _) => {
                let (name, version) = split_type(text);
                (Cow::Borrowed(name), version)
            }
            (Some(Cow::Owned(text)), _) => {
                let (name, version) = split_type(&text);
                (Cow::Owned(name.to_owned()), version)
            }
            (None, Some(default)) => (Cow::Borrowed(default.name), default.version),
            (None, None) => return Err(DecodeError::NoType),
        };
        let time = match &attributes.time {
            None => record.timestamp(),
            Some(text) => Timestamp::parse_rfc3339(text).ok_or_else(|| DecodeError::Header {
                name: "ce_time".to_owned(),
                reason: format!("{:?} is not an RFC 3339 time", text.chars().take(40).collect::<String>()),
            })?,
        };
        // A record of another producer may carry no version at all; one that does must be ours to read.
        if !attributes.specversion.is_empty() && !attributes.specversion.starts_with("1.") {
            let reason =
                format!("CloudEvents {:?} is not 1.x", attributes.specversion.escape_debug().to_string());
            return Err(DecodeError::Header { name: "ce_specversion".to_owned(), reason });
        }
        Ok(Self { record, name, version, time, payload, attributes })
    }

    /// The name and version of the type.
    #[must_use]
    pub fn event_type(&self) -> (&str, u32) {
        (&self.name, self.version)
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &'a Record {
        self.record
    }

    /// Whether its trace is recorded.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.trace().is_some_and(TraceContext::sampled)
    }

    fn trace(&self) -> Option<TraceContext> {
        self.attributes.traceparent.as_deref().and_then(TraceContext::parse)
    }

    /// The id: as the record says, or derived from its position.
    #[must_use]
    pub fn id(&self) -> EventId {
        match &self.attributes.id {
            Some(id) => EventId::parse(id),
            None => EventId::of_position(
                self.record.topic().as_str(),
                self.record.partition(),
                self.record.offset(),
            ),
        }
    }

    /// The source, or nothing where the record does not say.
    #[must_use]
    pub fn source(&self) -> &str {
        self.attributes.source.as_deref().unwrap_or_default()
    }

    /// The whole envelope.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let id = |text: &Option<Cow<'_, str>>| text.as_deref().map(EventId::parse);
        Envelope {
            id: self.id(),
            name: self.name.clone().into_owned(),
            version: self.version,
            source: self.source().to_owned(),
            subject: self.attributes.subject.as_deref().map(str::to_owned),
            time: self.time,
            correlation: id(&self.attributes.correlationid),
            causation: id(&self.attributes.causationid),
            trace: self.trace(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_split_at_their_version() {
        assert_eq!(split_type("inventory.StockReserved"), ("inventory.StockReserved", 1));
        assert_eq!(split_type("inventory.StockReserved.v2"), ("inventory.StockReserved", 2));
        for odd in ["a.v1", "a.v0", "a.v02", "a.v+2", ".v2", "a.vx", "a.v99999999999"] {
            assert_eq!(split_type(odd), (odd, 1));
        }
    }
}
