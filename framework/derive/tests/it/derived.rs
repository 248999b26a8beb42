use aqueduct_core::{DecodeError, Draft, Event as _, EventSet as _, IntoEvents, Key};
use aqueduct_derive::{Event, EventSet};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "inventory.StockReserved", topic = "inventory.stock", key = sku, crate = aqueduct_core)]
struct StockReservedV1 {
    sku: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(
    name = "inventory.StockReserved",
    version = 2,
    topic = "inventory.stock",
    key = (sku),
    upcasts = StockReservedV1,
    crate = aqueduct_core
)]
struct StockReservedV2 {
    sku: String,
    quantity: u32,
}

impl From<StockReservedV1> for StockReservedV2 {
    fn from(old: StockReservedV1) -> Self {
        Self { sku: old.sku, quantity: 1 }
    }
}

/// Arguments of two attributes count as one list.
#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "inventory.StockReserved", version = 3, topic = "inventory.stock")]
#[event(key = (store, r#type), upcasts = StockReservedV2, crate = aqueduct_core)]
struct StockReserved {
    store: u32,
    r#type: String,
    quantity: u32,
}

impl From<StockReservedV2> for StockReserved {
    fn from(old: StockReservedV2) -> Self {
        Self { store: 0, r#type: old.sku, quantity: old.quantity }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "inventory.Opened", version = 3, topic = "inventory.days", crate = aqueduct_core)]
struct Opened {}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "inventory.Counted", topic = "inventory.days", crate = aqueduct_core)]
struct Counted(u32);

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "inventory.Closed", topic = "inventory.days", crate = aqueduct_core)]
struct Closed;

#[derive(Debug, PartialEq, EventSet)]
#[event(crate = aqueduct_core)]
enum Day {
    Opened(Opened),
    Counted(Counted),
    Reserved(StockReserved),
}

/// An event is a set of one, too: both traits have a `decode`.
fn decode<E: aqueduct_core::Event>(version: u32, payload: &[u8]) -> Result<E, DecodeError> {
    <E as aqueduct_core::Event>::decode(version, payload)
}

fn reserved() -> StockReserved {
    StockReserved { store: 7, r#type: "a/b".to_owned(), quantity: 2 }
}

#[test]
fn an_event_says_what_was_declared() {
    let info = StockReserved::INFO;
    assert_eq!(info.event.to_string(), "inventory.StockReserved.v3");
    assert_eq!((info.topic, info.key), ("inventory.stock", Some("store, type")));
    assert_eq!(reserved().key().unwrap().to_string(), "7/a%2Fb");
    // A key of one field is its text as it is, with and without parentheses.
    let sku = "a/b".to_owned();
    assert_eq!(StockReservedV1 { sku: sku.clone() }.key(), Some(Key::of("a/b")));
    assert_eq!(StockReservedV2 { sku, quantity: 1 }.key(), Some(Key::of("a/b")));
    assert_eq!(Counted::INFO.event.to_string(), "inventory.Counted");
    assert_eq!((Counted::INFO.key, Counted(3).key()), (None, None));
}

#[test]
fn events_come_back_as_they_were() {
    let draft = Draft::of(&reserved()).unwrap();
    assert_eq!(decode::<StockReserved>(3, draft.payload()).unwrap(), reserved());
    assert_eq!(decode::<Counted>(1, Draft::of(&Counted(3)).unwrap().payload()).unwrap(), Counted(3));
    assert_eq!(decode::<Closed>(1, Draft::of(&Closed).unwrap().payload()).unwrap(), Closed);
    assert_eq!(decode::<Opened>(3, b"{}").unwrap(), Opened {});
}

/// P8. Red when `decode` hands an older payload to the newest type.
#[test]
fn older_versions_go_through_every_upcaster() {
    let now = |quantity| StockReserved { store: 0, r#type: "milk".to_owned(), quantity };
    assert_eq!(decode::<StockReserved>(1, br#"{"sku":"milk"}"#).unwrap(), now(1));
    assert_eq!(decode::<StockReserved>(2, br#"{"sku":"milk","quantity":5}"#).unwrap(), now(5));
}

/// P8. Red when `decode` treats a newer version as its own.
#[test]
fn versions_that_cannot_be_read_say_why() {
    let text = |result: Result<StockReserved, DecodeError>| result.unwrap_err().to_string();
    assert_eq!(
        text(decode::<StockReserved>(4, b"{}")),
        "inventory.StockReserved.v3 is known up to version 3, the record has version 4: deploy the newer code first"
    );
    // The older type is named, not the one that was asked for.
    assert_eq!(
        text(decode::<StockReserved>(2, b"{}")),
        "the payload is not a inventory.StockReserved.v2: missing field `sku` at line 1 column 2"
    );
    assert_eq!(
        text(decode::<StockReserved>(1, b"{}")),
        "the payload is not a inventory.StockReserved: missing field `sku` at line 1 column 2"
    );
    assert_eq!(
        decode::<Opened>(1, b"{}").unwrap_err().to_string(),
        "inventory.Opened.v3 has no upcaster from version 1 (declare `upcasts = ..` on the event)"
    );
}

#[test]
fn a_set_decodes_by_name_and_encodes_what_it_holds() {
    let names: Vec<_> = Day::EVENTS.iter().map(|info| info.event.to_string()).collect();
    assert_eq!(names, ["inventory.Opened.v3", "inventory.Counted", "inventory.StockReserved.v3"]);
    let old = Day::read("inventory.StockReserved", 2, br#"{"sku":"milk","quantity":5}"#).unwrap();
    assert_eq!(old, StockReserved { store: 0, r#type: "milk".to_owned(), quantity: 5 }.into());
    let counted = Day::from(Counted(3));
    assert_eq!(counted.info(), Counted::INFO);
    assert_eq!(counted.draft().unwrap().payload(), b"3");
    assert_eq!(
        Day::read("inventory.Closed", 1, b"null").unwrap_err().to_string(),
        "unknown event type \"inventory.Closed\" version 1: no handler takes it and `.ignore` does not name it"
    );
}

#[test]
fn a_handler_may_return_sets_and_events() {
    let mut drafts = Vec::new();
    (vec![Day::from(Opened {}), Counted(3).into()], Some(Closed)).append_to(&mut drafts).unwrap();
    let names: Vec<_> = drafts.iter().map(|draft| draft.info().event.name).collect();
    assert_eq!(names, ["inventory.Opened", "inventory.Counted", "inventory.Closed"]);
}
