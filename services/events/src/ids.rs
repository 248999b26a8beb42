//! What names a store, a product, a basket, a household.

use std::{fmt, num::ParseIntError, str::FromStr};

use aqueduct::EventKey;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl EventKey for $name {
            fn append_to(&self, text: &mut String) {
                self.0.append_to(text);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A store.
    StoreId(u32)
);
id!(
    /// A product (stock keeping unit).
    Sku(u32)
);
id!(
    /// One purchase.
    BasketId(u64)
);
id!(
    /// The household of a customer card.
    HouseholdId(u32)
);
