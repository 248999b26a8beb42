use aqueduct_core::{
    Envelope, EventId, Timestamp,
    cloudevents::{self, Incoming, split_type},
    event::EventType,
    record::HeadersBuilder,
    trace::TraceContext,
};
use proptest::{collection::vec, option, prelude::*};

use crate::batch::record;

/// Names as the derive takes them: the end is no version.
fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,8}(\\.[a-zA-Z0-9_-]{1,8}){0,3}"
        .prop_filter("ends like a version", |name| split_type(name).1 == 1)
}

fn id() -> impl Strategy<Value = EventId> {
    prop_oneof![any::<String>(), "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"]
        .prop_map(|text| EventId::parse(&text))
}

prop_compose! {
    fn envelope()(
        id in id(),
        name in name(),
        version in prop_oneof![1..4_u32, 1..=u32::MAX],
        source in any::<String>(),
        subject in option::of(any::<String>()),
        micros in any::<i64>(),
        correlation in option::of(id()),
        causation in option::of(id()),
        trace in option::of("00-[0-9a-f]{31}1-[0-9a-f]{15}1-0[0-3]"),
    ) -> Envelope {
        Envelope {
            id,
            name,
            version,
            source,
            subject,
            time: Timestamp::from_micros(micros),
            correlation,
            causation,
            trace: trace.as_deref().and_then(TraceContext::parse),
        }
    }
}

const ATTRIBUTES: &[&str] = &[
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_subject",
    "ce_time",
    "ce_correlationid",
    "ce_causationid",
    "traceparent",
    "content-type",
    "unknown",
];

/// Values that get far: nearly valid times, versions, content types, and any bytes.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    let time = "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,30})?(Z|[+-].{5})";
    prop_oneof![
        vec(any::<u8>(), 0..60),
        (time, 0..40_usize).prop_map(|(time, cut)| time.into_bytes().into_iter().take(cut).collect()),
        "(1\\.0|2\\.0|.{0,3}\\.v[0-9]{1,12})".prop_map(String::into),
        Just(b"application/cloudevents+json; charset=utf-8".to_vec()),
        "00-[0-9a-fA-F]{32}-[0-9a-f]{16}-.{2}".prop_map(String::into),
    ]
}

fn structured_value() -> impl Strategy<Value = Vec<u8>> {
    let member = prop_oneof![
        "\"(specversion|id|type|source|time|subject|data|other)\":(\"[^\"\\\\]{0,8}\"|[0-9]{1,3}|null|\\{\\}|\\[1,)",
        Just("\"time\":\"2017-01-01T00:00:00.5+01:00\"".to_owned()),
        Just("\"type\":\"a.\\u0041.v2\"".to_owned()),
    ];
    prop_oneof![
        vec(any::<u8>(), 0..60),
        vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")).into_bytes()),
    ]
}

proptest! {
    /// P3, P5: what was published is what is handled. Red when `write` leaves out `ce_causationid`.
    #[test]
    fn an_envelope_comes_back_as_it_was(envelope in envelope(), value in vec(any::<u8>(), 0..20)) {
        let record = record(cloudevents::write(&envelope), Some(value.clone()), envelope.time);
        let incoming = Incoming::read(&record, None).unwrap();
        prop_assert_eq!(incoming.payload, Some(&value[..]));
        prop_assert_eq!(incoming.event_type(), (&envelope.name[..], envelope.version));
        prop_assert_eq!(&incoming.id(), &envelope.id);
        prop_assert_eq!(incoming.source(), &envelope.source);
        // The conversation's first event does not name itself, and a trace that nobody records is not sent on.
        let expected = Envelope {
            correlation: envelope.correlation.clone().filter(|id| *id != envelope.id),
            trace: envelope.trace.filter(|trace| trace.sampled()),
            ..envelope
        };
        prop_assert_eq!(incoming.envelope(), expected);
    }

    /// P8. Red when `EventType` shows version 1 as `.v1`.
    #[test]
    fn a_type_is_read_as_it_was_written(name in name(), version in prop_oneof![1..4_u32, 1..=u32::MAX]) {
        let event = EventType { name: name.clone().leak(), version };
        let text = event.to_string();
        prop_assert_eq!(split_type(&text), (&name[..], version));
    }

    /// P8. Whatever stands in `ce_type`, nothing of it is lost. Red when `split_type` takes `.v02` for version 2.
    #[test]
    fn any_type_text_can_be_put_together_again(text in "\\PC{0,6}(\\.v[+0]?[0-9]{1,11}){0,2}") {
        let (name, version) = split_type(&text);
        let again = if version == 1 { name.to_owned() } else { format!("{name}.v{version}") };
        prop_assert_eq!(again, text);
    }

    /// P12. Red when `parse_time` slices with `[..]` in place of `get`.
    #[test]
    fn no_headers_make_it_panic(
        headers in vec((prop::sample::select(ATTRIBUTES), option::of(header_value())), 0..8),
        value in option::of(structured_value()),
    ) {
        let mut builder = HeadersBuilder::new();
        for (name, value) in &headers {
            builder.push(name.as_bytes(), value.as_deref());
        }
        read_all(builder, value);
    }

    /// P12. Red when `read` unwraps the type of a structured event.
    #[test]
    fn no_structured_event_makes_it_panic(value in structured_value()) {
        let mut builder = HeadersBuilder::new();
        builder.push(b"content-type", Some(b"application/cloudevents+json"));
        read_all(builder, Some(value));
    }
}

/// Reads everything that can be read; errors must have a text.
fn read_all(headers: HeadersBuilder, value: Option<Vec<u8>>) {
    let record = record(headers.build(), value, Timestamp::from_micros(1));
    for default in [None, Some(EventType::new("a.A", 2))] {
        match Incoming::read(&record, default) {
            Ok(incoming) => {
                assert!(incoming.event_type().1 > 0);
                let envelope = incoming.envelope();
                assert_eq!((envelope.id, &*envelope.source), (incoming.id(), incoming.source()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
