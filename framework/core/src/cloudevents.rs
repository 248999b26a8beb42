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
    /// The payload; none where the record has no value.
    pub payload: Option<&'a [u8]>,
    attributes: Attributes<'a>,
}

/// The text of an attribute. ASCII was looked at and is turned into text only where it is asked for: most attributes of
/// most records are not.
#[derive(Debug)]
enum Text<'a> {
    Ascii(&'a [u8]),
    Utf8(Cow<'a, str>),
}

impl<'a> Text<'a> {
    fn of_bytes(bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_ascii() {
            return Some(Self::Ascii(bytes));
        }
        std::str::from_utf8(bytes).ok().map(|text| Self::Utf8(Cow::Borrowed(text)))
    }

    fn as_str(&self) -> &str {
        match self {
            // ASCII is UTF-8.
            Self::Ascii(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Self::Utf8(text) => text,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Ascii(bytes) => bytes.is_empty(),
            Self::Utf8(text) => text.is_empty(),
        }
    }
}

/// Attributes that are kept: by name, without the `ce_` of their headers.
#[derive(Debug, Default)]
struct Attributes<'a> {
    specversion: Option<Text<'a>>,
    id: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    source: Option<Text<'a>>,
    subject: Option<Text<'a>>,
    time: Option<Text<'a>>,
    correlation: Option<Text<'a>>,
    causation: Option<Text<'a>>,
    trace: Option<Text<'a>>,
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
        let mut attributes = Attributes::default();
        let mut structured = false;
        let mut fault = None;
        record.visit_headers(&mut |header| {
            let Some(value) = header.value else { return };
            let slot = match header.name {
                b"ce_specversion" => &mut attributes.specversion,
                b"ce_id" => &mut attributes.id,
                b"ce_type" => &mut attributes.kind,
                b"ce_source" => &mut attributes.source,
                b"ce_subject" => &mut attributes.subject,
                b"ce_time" => &mut attributes.time,
                b"ce_correlationid" => &mut attributes.correlation,
                b"ce_causationid" => &mut attributes.causation,
                b"traceparent" => &mut attributes.trace,
                b"content-type" => {
                    structured = value.starts_with(b"application/cloudevents+json");
                    return;
                }
                _ => return,
            };
            let name = || header.name.escape_ascii().to_string();
            if slot.as_ref().is_some_and(|text| !text.is_empty()) {
                fault.get_or_insert_with(|| DecodeError::Header {
                    name: name(),
                    reason: "it is there twice".to_owned(),
                });
            }
            match Text::of_bytes(value) {
                Some(text) => *slot = Some(text),
                None => {
                    let shown = value.iter().take(40).copied().collect::<Vec<_>>().escape_ascii().to_string();
                    fault.get_or_insert_with(|| DecodeError::Header {
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
            let event: Structured<'a> = serde_json::from_slice(value).map_err(DecodeError::Structured)?;
            let text = |text: Option<Cow<'a, str>>| text.map(Text::Utf8);
            payload = event.data.map(|data| data.get().as_bytes());
            attributes = Attributes {
                specversion: text(event.specversion),
                id: text(event.id),
                kind: text(event.kind),
                source: text(event.source),
                subject: text(event.subject),
                time: text(event.time),
                correlation: text(event.correlationid),
                causation: text(event.causationid),
                trace: text(event.traceparent),
            };
        }
        let (name, version) = match (attributes.kind.take(), default) {
            (Some(Text::Ascii(bytes)), _) => {
                let (name, version) = split_type(std::str::from_utf8(bytes).unwrap_or_default());
                (Cow::Borrowed(name), version)
            }
            (Some(Text::Utf8(Cow::Borrowed(text))), _) => {
                let (name, version) = split_type(text);
                (Cow::Borrowed(name), version)
            }
            (Some(Text::Utf8(Cow::Owned(text))), _) => {
                let (name, version) = split_type(&text);
                (Cow::Owned(name.to_owned()), version)
            }
            (None, Some(default)) => (Cow::Borrowed(default.name), default.version),
            (None, None) => return Err(DecodeError::NoType),
        };
        let time = match attributes.time.as_ref().map(Text::as_str) {
            None => record.timestamp(),
            Some(text) => Timestamp::parse_rfc3339(text).ok_or_else(|| DecodeError::Header {
                name: "ce_time".to_owned(),
                reason: format!("{:?} is not an RFC 3339 time", text.chars().take(40).collect::<String>()),
            })?,
        };
        // A record of another producer may carry no version at all; one that does must be ours to read.
        match attributes.specversion.as_ref() {
            None | Some(Text::Ascii([] | [b'1', b'.', ..])) => {}
            Some(version) => {
                let version = version.as_str();
                if !version.is_empty() && !version.starts_with("1.") {
                    let reason = format!("CloudEvents {:?} is not 1.x", version.escape_debug().to_string());
                    return Err(DecodeError::Header { name: "ce_specversion".to_owned(), reason });
                }
            }
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
        self.attributes.trace.as_ref().and_then(|text| TraceContext::parse(text.as_str()))
    }

    /// The id: as the record says, or derived from its position.
    #[must_use]
    pub fn id(&self) -> EventId {
        match &self.attributes.id {
            Some(id) => EventId::parse(id.as_str()),
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
        self.attributes.source.as_ref().map(Text::as_str).unwrap_or_default()
    }

    /// The whole envelope.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let id = |text: &Option<Text<'_>>| text.as_ref().map(|text| EventId::parse(text.as_str()));
        Envelope {
            id: self.id(),
            name: self.name.clone().into_owned(),
            version: self.version,
            source: self.source().to_owned(),
            subject: self.attributes.subject.as_ref().map(|text| text.as_str().to_owned()),
            time: self.time,
            correlation: id(&self.attributes.correlation),
            causation: id(&self.attributes.causation),
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
