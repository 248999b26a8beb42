//! The events. [`Sold`] is the standard one of the scoreboard: 300 bytes of JSON, 8 fields, a key of 10 bytes.

use aqueduct::prelude::*;

use crate::random::{Random, Zipf};

/// How many keys the standard event has.
pub const KEYS: u32 = 10_000;
/// Bytes of its JSON.
pub const BYTES: usize = 300;

/// The standard event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "bench.Sold", topic = "bench.sold", key = account)]
pub struct Sold {
    /// The key.
    pub account: String,
    /// Its number in the pool.
    pub number: i64,
    /// A small number.
    pub store: u32,
    /// A time.
    pub at: i64,
    /// An amount.
    pub amount: i64,
    /// A short text.
    pub product: String,
    /// A short text.
    pub household: String,
    /// The rest: random hexadecimal digits, so that nothing compresses well.
    pub note: String,
}

/// How keys are drawn.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// By Zipf's law with exponent 1.
    Zipf,
    /// Each as often as any other.
    Uniform,
}

/// `count` standard events, the same for the same arguments.
///
/// # Errors
/// Never: an event of ours serializes.
pub fn pool(count: u64, keys: Keys) -> anyhow::Result<Vec<Sold>> {
    let (mut random, zipf) = (Random::new(1), Zipf::new(KEYS));
    (0..count)
        .map(|number| {
            let key = match keys {
                Keys::Zipf => zipf.draw(&mut random),
                Keys::Uniform => usize::try_from(number % u64::from(KEYS))?,
            };
            let mut event = Sold {
                account: format!("k{key:09}"),
                number: 1_000_000 + i64::try_from(number)?,
                store: u32::try_from(1_000 + random.below(9_000))?,
                at: 1_700_000_000_000_000 + i64::try_from(random.below(1_000_000_000))?,
                amount: i64::try_from(10_000 + random.below(90_000))?,
                product: format!("{:012x}", random.draw() >> 16),
                household: format!("{:08x}", random.draw() >> 32),
                note: String::new(),
            };
            let bare = serde_json::to_vec(&event)?.len();
            while event.note.len() + bare < BYTES {
                event.note.push_str(&format!("{:016x}", random.draw()));
            }
            event.note.truncate(BYTES.saturating_sub(bare));
            Ok(event)
        })
        .collect()
}

/// An event without text: decoding it allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "bench.Counted", topic = "bench.counted", key = account)]
pub struct Counted {
    /// The key.
    pub account: u64,
    /// Its number.
    pub number: u64,
    /// A small number.
    pub store: u32,
    /// A time.
    pub at: i64,
    /// An amount.
    pub amount: i64,
    /// More of them.
    pub discount: i64,
    /// A flag.
    pub returned: bool,
    /// A small number.
    pub till: u16,
}

impl Counted {
    /// The `number`-th one, of a key among `keys`. All of them have the same length.
    #[must_use]
    pub fn new(number: u64, keys: u64) -> Self {
        Self {
            account: 1_000_000 + number % keys.max(1),
            number: 10_000_000 + number,
            store: 1_234,
            at: 1_700_000_000_000_000,
            amount: 12_345,
            discount: -250,
            returned: false,
            till: 12,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_event_is_what_the_scoreboard_says() {
        let pool = pool(1_000, Keys::Zipf).unwrap();
        for event in &pool {
            assert_eq!(serde_json::to_vec(event).unwrap().len(), BYTES);
            assert_eq!(event.account.len(), 10);
        }
        let hottest = pool.iter().filter(|event| event.account == "k000000000").count();
        assert!(
            (60..150).contains(&hottest),
            "Zipf 1.0 over 10,000 keys gives the first about 10.2 %: {hottest}"
        );
    }
}
