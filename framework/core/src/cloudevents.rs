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
    if let Some((name, digits)) = text.rsplit_once(".v") {
        if let Ok(version) = digits.parse::<u32>() {
            if version > 1 && !digits.starts_with(['0', '+']) && !name.is_empty() {
                return (name, version);
            }
        }
    }
    (text, 1)
}

/// A record read as an event: its type, its payload, and the rest on demand.
#[derive(Debug)]
pub struct Incoming<'a> {
    record: &'a Record,
    type_text: Cow<'a, str>,
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
    /// An attribute is repeated or not UTF-8, the specification version is not 1.x, there is no type, or a
    /// structured event does not parse.
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
        let type_text = match (attributes.type_text.take(), default) {
            (Some(text), _) => text,
            (None, Some(default)) => Cow::Owned(default.to_string()),
            (None, None) => return Err(DecodeError::NoType),
        };
        // A record of another producer may carry no version at all; one that does must be ours to read.
        if !attributes.specversion.is_empty() && !attributes.specversion.starts_with("1.") {
            let reason =
                format!("CloudEvents {:?} is not 1.x", attributes.specversion.escape_debug().to_string());
            return Err(DecodeError::Header { name: "ce_specversion".to_owned(), reason });
        }
        Ok(Self { record, type_text, payload, attributes })
    }

    /// The name and version of the type.
    #[must_use]
    pub fn event_type(&self) -> (&str, u32) {
        split_type(&self.type_text)
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
    ///
    /// # Errors
    /// `ce_time` is not RFC 3339.
    pub fn envelope(&self) -> Result<Envelope, DecodeError> {
        let (name, version) = self.event_type();
        let id = |text: &Option<Cow<'_, str>>| text.as_deref().map(EventId::parse);
        let time = match &self.attributes.time {
            None => self.record.timestamp(),
            Some(text) => parse_time(text).ok_or_else(|| DecodeError::Header {
                name: "ce_time".to_owned(),
                reason: format!("{:?} is not an RFC 3339 time", text.chars().take(40).collect::<String>()),
            })?,
        };
        Ok(Envelope {
            id: self.id(),
            name: name.to_owned(),
            version,
            source: self.source().to_owned(),
            subject: self.attributes.subject.as_deref().map(str::to_owned),
            time,
            correlation: id(&self.attributes.correlationid),
            causation: id(&self.attributes.causationid),
            trace: self.attributes.traceparent.as_deref().and_then(TraceContext::parse),
        })
    }
}

/// RFC 3339 to microseconds. Small enough not to be worth a time library in this crate.
fn parse_time(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let at = |index: usize| text.as_bytes().get(index).copied();
    if at(4) != Some(b'-') || at(7) != Some(b'-') || !matches!(at(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    if at(13) != Some(b':') || at(16) != Some(b':') {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let kept = fraction.get(..digits.min(6)).filter(|kept| !kept.is_empty())?;
        micros = kept.parse::<i64>().ok()? * 10_i64.pow(6 - u32::try_from(kept.len()).ok()?);
        rest = fraction.get(digits..)?;
    }
    let offset = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let minutes = rest.get(1..3)?.parse::<i64>().ok()? * 60 + rest.get(4..6)?.parse::<i64>().ok()?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    // Days since 1970-01-01 of a proleptic Gregorian date (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60;
    Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
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

    #[test]
    fn times_are_rfc_3339() {
        let micros = |text| parse_time(text).map(Timestamp::as_micros);
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("2017-01-01T09:30:00.25+02:00"), Some(1_483_255_800_250_000));
        assert_eq!(micros("2000-02-29T00:00:00Z"), Some(951_782_400_000_000));
        for bad in [
            "",
            "2017-01-01",
            "2017-13-01T00:00:00Z",
            "2017-01-01T00:00:00",
            "2017-01-01T00:00:00.Z",
            "20170101T000000Z",
        ] {
            assert_eq!(micros(bad), None, "{bad}");
        }
    }
}
