//! CloudEvents 1.0, Kafka protocol binding (<https://github.com/cloudevents/spec>, `kafka-protocol-binding.md`).
//!
//! Written in binary mode: the value is the payload alone, attributes are `ce_` headers, and only those that the
//! record does not already say. Read in binary and in structured mode; a record without attributes is of the
//! topic's default type.

use std::{borrow::Cow, io::Write};

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    envelope::{Envelope, EventId},
    environment::Timestamp,
    error::DecodeError,
    event::EventType,
    record::{Headers, Record, put_header},
    trace::TraceContext,
};

/// The headers for an envelope.
#[must_use]
pub fn write(envelope: &Envelope) -> Headers {
    let mut block = Vec::with_capacity(160);
    let outgoing = Outgoing {
        id: &envelope.id,
        name: &envelope.name,
        version: envelope.version,
        source: &envelope.source,
        subject: envelope.subject.as_deref(),
        correlation: envelope.correlation.as_ref(),
        causation: envelope.causation.as_ref(),
        trace: envelope.trace,
    };
    outgoing.append_to(&mut block);
    Headers::from_block(block.into())
}

/// What headers say, borrowed.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) id: &'a EventId,
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    pub(crate) source: &'a str,
    pub(crate) subject: Option<&'a str>,
    pub(crate) correlation: Option<&'a EventId>,
    pub(crate) causation: Option<&'a EventId>,
    pub(crate) trace: Option<TraceContext>,
}

impl Outgoing<'_> {
    /// Appends the header block.
    pub(crate) fn append_to(&self, block: &mut Vec<u8>) {
        put_text(block, "ce_specversion", "1.0");
        put_id(block, "ce_id", self.id);
        put_header(block, b"ce_type", |block| {
            block.extend_from_slice(self.name.as_bytes());
            if self.version > 1 {
                append(block, format_args!(".v{}", self.version));
            }
        });
        put_text(block, "ce_source", self.source);
        if let Some(subject) = self.subject {
            put_text(block, "ce_subject", subject);
        }
        if let Some(id) = self.correlation.filter(|id| *id != self.id) {
            put_id(block, "ce_correlationid", id);
        }
        if let Some(id) = self.causation {
            put_id(block, "ce_causationid", id);
        }
        if let Some(trace) = self.trace.filter(|trace| trace.sampled()) {
            put_header(block, b"traceparent", |block| append(block, format_args!("{trace}")));
        }
    }
}

fn put_text(block: &mut Vec<u8>, name: &str, value: &str) {
    put_header(block, name.as_bytes(), |block| block.extend_from_slice(value.as_bytes()));
}

/// Ids are on every event, so a UUID's digits are not formatted one by one.
fn put_id(block: &mut Vec<u8>, name: &str, id: &EventId) {
    match id {
        EventId::Text(text) => put_text(block, name, text),
        EventId::Uuid(uuid) => {
            put_text(block, name, uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        }
    }
}

fn append(block: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = block.write_fmt(text);
}

/// Splits a `ce_type` into name and version: `.vN` at the end, N from 2 on without leading zeros.
#[must_use]
pub fn split_type(text: &str) -> (&str, u32) {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits > 0
        && let Some((name, number)) = text.split_at_checked(text.len() - digits)
        && let Some(name) = name.strip_suffix(".v")
        && !name.is_empty()
        && !number.starts_with('0')
        && let Ok(version) = number.parse::<u32>()
        && version > 1
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
    size: usize,
    /// The payload; none where the record has no value.
    pub payload: Option<&'a [u8]>,
    /// Looked at, and turned into text only where it is asked for: most attributes of most records are not.
    binary: Attributes<&'a [u8]>,
    structured: Option<Box<Attributes<Cow<'a, str>>>>,
}

/// Attributes that are kept: by name, without the `ce_` of their headers.
#[derive(Debug)]
struct Attributes<T> {
    specversion: Option<T>,
    id: Option<T>,
    kind: Option<T>,
    source: Option<T>,
    subject: Option<T>,
    time: Option<T>,
    correlation: Option<T>,
    causation: Option<T>,
    trace: Option<T>,
}

impl<T> Attributes<T> {
    const NONE: Self = Self {
        specversion: None,
        id: None,
        kind: None,
        source: None,
        subject: None,
        time: None,
        correlation: None,
        causation: None,
        trace: None,
    };
}

/// An event in structured mode.
#[derive(Deserialize)]
struct Structured<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    causationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Incoming<'a> {
    /// Reads what stands on a record. `default` is the topic's type for records without attributes.
    ///
    /// # Errors
    /// An attribute is repeated or not UTF-8, the specification version is not 1.x, there is no type, `ce_time` is not
    /// RFC 3339, or a structured event does not parse.
    pub fn read(record: &'a Record, default: Option<EventType>) -> Result<Self, DecodeError> {
        let mut binary: Attributes<&'a [u8]> = Attributes::NONE;
        let mut is_structured = false;
        let mut fault = None;
        let mut payload = record.value();
        let mut size = record.key().map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len);
        record.visit_headers(&mut |header| {
            size += header.name.len();
            let Some(value) = header.value else { return };
            size += value.len();
            let slot = match header.name {
                b"ce_specversion" => &mut binary.specversion,
                b"ce_id" => &mut binary.id,
                b"ce_type" => &mut binary.kind,
                b"ce_source" => &mut binary.source,
                b"ce_subject" => &mut binary.subject,
                b"ce_time" => &mut binary.time,
                b"ce_correlationid" => &mut binary.correlation,
                b"ce_causationid" => &mut binary.causation,
                b"traceparent" => &mut binary.trace,
                b"content-type" => {
                    is_structured = value.starts_with(b"application/cloudevents+json");
                    return;
                }
                _ => return,
            };
            if slot.is_some_and(|value| !value.is_empty()) {
                fault.get_or_insert_with(|| header_fault(header.name, "it is there twice".to_owned()));
            }
            if value.is_ascii() || std::str::from_utf8(value).is_ok() {
                *slot = Some(value);
            } else {
                fault.get_or_insert_with(|| {
                    let shown = value.get(..40).unwrap_or(value).escape_ascii();
                    header_fault(header.name, format!("it is not UTF-8: {shown}"))
                });
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        let mut structured = None;
        if is_structured {
            let value = payload.unwrap_or_default();
            let event: Structured<'a> = serde_json::from_slice(value).map_err(DecodeError::Structured)?;
            payload = event.data.map(|data| data.get().as_bytes());
            structured = Some(Box::new(Attributes {
                specversion: event.specversion,
                id: event.id,
                kind: event.kind,
                source: event.source,
                subject: event.subject,
                time: event.time,
                correlation: event.correlationid,
                causation: event.causationid,
                trace: event.traceparent,
            }));
        }
        let kind: Option<Cow<'a, str>> = match &mut structured {
            Some(attributes) => attributes.kind.take(),
            None => binary.kind.map(|kind| Cow::Borrowed(text(kind))),
        };
        let (name, version) = match (kind, default) {
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
        let mut incoming =
            Self { record, name, version, time: record.timestamp(), size, payload, binary, structured };
        if let Some(text) = incoming.text(|of| of.time, |of| &of.time) {
            incoming.time = Timestamp::parse_rfc3339(text).ok_or_else(|| DecodeError::Header {
                name: "ce_time".to_owned(),
                reason: format!("{:?} is not an RFC 3339 time", text.chars().take(40).collect::<String>()),
            })?;
        }
        // A record of another producer may carry no version at all; one that does must be ours to read.
        if let Some(version) = incoming.text(|of| of.specversion, |of| &of.specversion)
            && !version.is_empty()
            && !version.starts_with("1.")
        {
            let reason = format!("CloudEvents {:?} is not 1.x", version.escape_debug().to_string());
            return Err(DecodeError::Header { name: "ce_specversion".to_owned(), reason });
        }
        Ok(incoming)
    }

    /// The text of an attribute, from wherever it stands.
    fn text(
        &self,
        binary: impl Fn(&Attributes<&'a [u8]>) -> Option<&'a [u8]>,
        structured: impl for<'b> Fn(&'b Attributes<Cow<'a, str>>) -> &'b Option<Cow<'a, str>>,
    ) -> Option<&str> {
        match &self.structured {
            Some(attributes) => structured(attributes).as_deref(),
            None => binary(&self.binary).map(text),
        }
    }

    /// Bytes of key, value, and names and values of headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
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
        self.text(|of| of.trace, |of| &of.trace).and_then(TraceContext::parse)
    }

    /// The id: as the record says, or derived from its position.
    #[must_use]
    pub fn id(&self) -> EventId {
        match self.text(|of| of.id, |of| &of.id) {
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
        self.text(|of| of.source, |of| &of.source).unwrap_or_default()
    }

    /// The whole envelope.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        Envelope {
            id: self.id(),
            name: self.name.clone().into_owned(),
            version: self.version,
            source: self.source().to_owned(),
            subject: self.text(|of| of.subject, |of| &of.subject).map(str::to_owned),
            time: self.time,
            correlation: self.text(|of| of.correlation, |of| &of.correlation).map(EventId::parse),
            causation: self.text(|of| of.causation, |of| &of.causation).map(EventId::parse),
            trace: self.trace(),
        }
    }
}

/// Text that was found to be UTF-8.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn header_fault(name: &[u8], reason: String) -> DecodeError {
    DecodeError::Header { name: name.escape_ascii().to_string(), reason }
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
