//! Five hundred event types and their handlers, for the axis of handlers.

use aqueduct::{
    DecodeError, Draft, EncodeError, Event, Handled, Key, Subscription,
    core::{EventInfo, EventType},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{consume::FINISH, events::Counted};

/// The topic of all of them.
pub const TOPIC: &str = "bench.many";

/// The `N`-th type; its payload is that of [`Counted`].
#[derive(Debug, Clone, Copy)]
pub struct Numbered<const N: u16>(Counted);

const fn name(number: u16) -> [u8; 13] {
    let mut name = *b"bench.Many000";
    name[10] = b"0123456789"[(number / 100 % 10) as usize];
    name[11] = b"0123456789"[(number / 10 % 10) as usize];
    name[12] = b"0123456789"[(number % 10) as usize];
    name
}

impl<const N: u16> Numbered<N> {
    const BYTES: &'static [u8] = &name(N);
    const NAME: &'static str = match std::str::from_utf8(Self::BYTES) {
        Ok(name) => name,
        Err(_) => "",
    };
}

impl<const N: u16> Serialize for Numbered<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, const N: u16> Deserialize<'de> for Numbered<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Counted::deserialize(deserializer).map(Self)
    }
}

impl<const N: u16> Event for Numbered<N> {
    const INFO: EventInfo =
        EventInfo { event: EventType::new(Self::NAME, 1), topic: TOPIC, key: Counted::INFO.key };

    fn key(&self) -> Option<Key> {
        self.0.key()
    }

    fn decode(version: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        decode(version, payload).map(Self)
    }
}

/// One decoder for all types: five hundred copies of it would be what is measured, and that is the service's own code.
#[inline(never)]
fn decode(version: u32, payload: &[u8]) -> Result<Counted, DecodeError> {
    Counted::decode(version, payload)
}

async fn nothing<const N: u16>(event: Numbered<N>) -> Handled {
    std::hint::black_box(&event);
    FINISH.one();
    Ok(())
}

fn draft<const N: u16>(event: Counted) -> Result<Draft, EncodeError> {
    Draft::of(&Numbered::<N>(event))
}

/// Makes a draft of one type.
pub type MakeDraft = fn(Counted) -> Result<Draft, EncodeError>;

/// A subscription with a handler for each type, and how to make events of them.
#[derive(Debug)]
pub struct Types {
    /// The handlers.
    pub subscription: Subscription<()>,
    /// By number.
    pub drafts: Vec<MakeDraft>,
}

impl Types {
    fn add<const N: u16>(mut self) -> Self {
        self.drafts.push(draft::<N>);
        Self { subscription: self.subscription.on(nothing::<N>), drafts: self.drafts }
    }
}

macro_rules! ten {
    ($types:expr, $base:expr) => {
        $types
            .add::<{ $base }>()
            .add::<{ $base + 1 }>()
            .add::<{ $base + 2 }>()
            .add::<{ $base + 3 }>()
            .add::<{ $base + 4 }>()
            .add::<{ $base + 5 }>()
            .add::<{ $base + 6 }>()
            .add::<{ $base + 7 }>()
            .add::<{ $base + 8 }>()
            .add::<{ $base + 9 }>()
    };
}

macro_rules! hundred {
    ($types:expr, $base:expr) => {{
        let types =
            ten!(ten!(ten!(ten!(ten!($types, $base), $base + 10), $base + 20), $base + 30), $base + 40);
        ten!(ten!(ten!(ten!(ten!(types, $base + 50), $base + 60), $base + 70), $base + 80), $base + 90)
    }};
}

/// The first `count` types: 1, 10, 100 or 500 of them.
///
/// # Errors
/// Another count.
pub fn types(group: &str, count: u64) -> anyhow::Result<Types> {
    let none = Types { subscription: Subscription::builder(group), drafts: Vec::new() };
    Ok(match count {
        1 => none.add::<0>(),
        10 => ten!(none, 0),
        100 => hundred!(none, 0),
        500 => {
            let types = hundred!(hundred!(none, 0), 100);
            hundred!(hundred!(hundred!(types, 200), 300), 400)
        }
        other => anyhow::bail!("there are 1, 10, 100 or 500 types, not {other}"),
    })
}
