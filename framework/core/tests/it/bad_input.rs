//! P12: what each kind of bad input gives, in the words that a person reads.

use aqueduct_core::{
    DecodeError, Draft, Event, EventInfo, EventSet, EventType, Headers, Key, Timestamp,
    cloudevents::Incoming, event::decode_json,
};
use serde::{Deserialize, Serialize};

use crate::batch::{headers, record};

#[derive(Debug, Serialize, Deserialize)]
struct Sold {
    sku: String,
    quantity: u32,
}

impl Event for Sold {
    const INFO: EventInfo =
        EventInfo { event: EventType::new("till.Sold", 2), topic: "till.sales", key: Some("sku") };

    fn key(&self) -> Option<Key> {
        Some(Key::of(&self.sku))
    }

    fn decode(version: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        match version {
            2 => decode_json(payload),
            3.. => Err(DecodeError::NewerVersion { event: Self::INFO.event, version }),
            _ => Err(DecodeError::NoUpcaster { event: Self::INFO.event, version }),
        }
    }
}

/// An event whose author wrote the trait by hand, and past `EventType::new`.
#[derive(Debug, Serialize, Deserialize)]
struct Escaping;

impl Event for Escaping {
    const INFO: EventInfo =
        EventInfo { event: EventType { name: "../x", version: 1 }, topic: "till.sales", key: None };

    fn key(&self) -> Option<Key> {
        None
    }

    fn decode(_: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        decode_json(payload)
    }
}

/// Reads a record as a subscription to `Sold` does.
fn read(headers: Headers, value: &[u8]) -> Result<Sold, DecodeError> {
    let record = record(headers, Some(value.to_vec()), Timestamp::from_micros(0));
    let incoming = Incoming::read(&record, None)?;
    let (name, version) = incoming.event_type();
    Sold::read(name, version, incoming.payload.unwrap_or_default())
}

fn refusal(headers: Headers, value: &[u8]) -> String {
    read(headers, value).unwrap_err().to_string()
}

fn sold() -> Headers {
    headers(&[(b"ce_type", b"till.Sold.v2")])
}

#[test]
fn wrong_json_names_the_type_and_the_place() {
    assert_eq!(
        refusal(sold(), br#"{"sku":"milk","quantity":"two"}"#),
        "the payload is not a till.Sold.v2: invalid type: string \"two\", expected u32 at line 1 column 30"
    );
    assert_eq!(
        refusal(sold(), br#"{"sku":"#),
        "the payload is not a till.Sold.v2: EOF while parsing a value at line 1 column 7"
    );
    assert_eq!(
        refusal(sold(), b""),
        "the payload is not a till.Sold.v2: EOF while parsing a value at line 1 column 0"
    );
}

#[test]
fn unknown_types_and_versions_are_not_guessed() {
    assert_eq!(
        refusal(headers(&[(b"ce_type", b"till.Sold.v3")]), b"{}"),
        "till.Sold.v2 is known up to version 2, the record has version 3: deploy the newer code first"
    );
    assert_eq!(
        refusal(headers(&[(b"ce_type", b"till.Sold")]), b"{}"),
        "till.Sold.v2 has no upcaster from version 1 (declare `upcasts = ..` on the event)"
    );
    assert_eq!(
        refusal(headers(&[(b"ce_type", b"../x\n\x1b[2J")]), b"{}"),
        "unknown event type \"../x\\n\\u{1b}[2J\" version 1: no handler takes it and `.ignore` does not name it"
    );
    assert_eq!(
        refusal(Headers::default(), b"{}"),
        "the record carries no event type (no ce_type header) and the topic declares no default type"
    );
}

#[test]
fn records_without_key_or_value_say_what_the_type_needs() {
    let event = Sold::INFO.event;
    assert_eq!(
        DecodeError::MissingKey { event, key: "sku" }.to_string(),
        "the record has no key, till.Sold.v2 is keyed by (sku)"
    );
    assert_eq!(
        DecodeError::NoValue { event }.to_string(),
        "the record has no value (a tombstone), till.Sold.v2 needs one"
    );
}

/// Red when serde_json's recursion limit is switched off: the test ends in a stack overflow.
#[test]
fn deep_json_does_not_overflow_the_stack() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let structured = headers(&[(b"content-type", b"application/cloudevents+json")]);
    let wrap = |data: &str| format!(r#"{{"specversion":"1.0","type":"till.Sold.v2","data":{data}}}"#);

    assert_eq!(
        decode_json::<Nested>(deep.as_bytes()).unwrap_err().to_string(),
        "the payload is not a till.Nested: recursion limit exceeded at line 1 column 128"
    );
    assert_eq!(
        refusal(sold(), format!(r#"{{"sku":{deep}}}"#).as_bytes()),
        "the payload is not a till.Sold.v2: invalid type: sequence, expected a string at line 1 column 7"
    );
    assert_eq!(
        refusal(structured.clone(), wrap(&deep).as_bytes()),
        "the payload is not a till.Sold.v2: invalid type: sequence, expected a string at line 1 column 1"
    );

    // A field that the type does not have is skipped without recursion, however deep: newer code may have added it.
    let ignored = format!(r#"{{"new":{deep},"sku":"milk","quantity":2}}"#);
    assert_eq!(read(sold(), ignored.as_bytes()).unwrap().quantity, 2);
    assert_eq!(read(structured.clone(), wrap(&ignored).as_bytes()).unwrap().quantity, 2);
    let extension = wrap(r#"{"sku":"milk","quantity":2}"#).replacen('{', &format!(r#"{{"new":{deep},"#), 1);
    assert_eq!(read(structured, extension.as_bytes()).unwrap().quantity, 2);
}

/// A type that would follow the nesting all the way down.
#[derive(Debug, Serialize, Deserialize)]
struct Nested(Vec<Self>);

impl Event for Nested {
    const INFO: EventInfo = EventInfo { event: EventType::new("till.Nested", 1), topic: "till", key: None };

    fn key(&self) -> Option<Key> {
        None
    }

    fn decode(_: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        decode_json(payload)
    }
}

/// Red when `Incoming::read` takes the last of repeated headers.
#[test]
fn headers_that_cannot_be_are_refused_by_name() {
    let kind: (&[u8], &[u8]) = (b"ce_type", b"till.Sold.v2");
    for (list, text) in [
        ([kind, (b"ce_id", b"\xff\xfe1")], "header ce_id: it is not UTF-8: \\xff\\xfe1"),
        ([kind, kind], "header ce_type: it is there twice"),
        ([(b"ce_id", b"1"), (b"ce_id", b"2")], "header ce_id: it is there twice"),
        ([kind, (b"ce_specversion", b"2.0")], "header ce_specversion: CloudEvents \"2.0\" is not 1.x"),
        (
            [(b"content-type", b"application/cloudevents+json"), kind],
            "the structured CloudEvent does not parse: expected value at line 1 column 1",
        ),
    ] {
        assert_eq!(refusal(headers(&list), b"?"), text);
    }
    let late = headers(&[kind, (b"ce_time", b"yesterday\x07")]);
    let record = record(late, None, Timestamp::from_micros(0));
    assert_eq!(
        Incoming::read(&record, None).unwrap_err().to_string(),
        "header ce_time: \"yesterday\\u{7}\" is not an RFC 3339 time"
    );
}

/// Red when `Draft::of` checks only the topic.
#[test]
fn events_that_cannot_be_published_say_why() {
    assert_eq!(
        Draft::of(&Escaping).unwrap_err().to_string(),
        "cannot encode ../x: event type \"../x\" is not a name: it must start with a letter or a digit"
    );
    assert_eq!(
        Draft::of(&Sold { sku: String::new(), quantity: 1 }).unwrap_err().to_string(),
        "cannot encode till.Sold.v2: its key is empty"
    );
}
