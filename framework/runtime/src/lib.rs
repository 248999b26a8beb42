//! Publishing and subscriptions over any commit log.
//!
//! - [`bus`]: [`Bus`], which publishes; `gate` keeps the order of calls and bounds what is in flight
//! - [`subscription`]: [`Subscription`], what a service declares; its guarantee line
//! - [`policy`]: [`Retry`] and [`OnFailure`]
//! - `subscriber`: one task per subscription; makes the log's client anew when it died
//! - `running`: hand-over and drain, while there is a client; `claims`: taking partitions up, and those that were added
//!   (`growth`) in their turn; `assignment`: beginning them; `settler` stores settled offsets with what is `noted` beside them, `monitor` finds partitions without progress
//! - `partition`: one task per partition; `feed` reads for it; `admission`: what it begins, by window, lanes of keys (`lanes`) and the
//!   subscription's `places`; `in_flight`: what is under way (`work`); `progress` and `ring`: how far it is
//! - `delivery`: one attempt at one record, and its transaction; `outcome`: what follows it; `health`: whether the
//!   handler works for others; `releasing`: attempts at parked records that were released
//! - `aside`: writes dead letters (`dead_letter`), parked records, and what handlers `returned` exactly once
//! - [`replay`]: [`Replay`], history delivered again
//! - `scan`: reads what is parked, asked for or kept in topics of ours
//! - [`parking`]: keys that wait for an operator, and how they are released
//! - [`status`]: what a subscription says of itself

mod admission;
mod aside;
mod assignment;
pub mod bus;
mod claims;
mod dead_letter;
mod delivery;
mod feed;
mod gate;
mod growth;
mod health;
mod in_flight;
mod lanes;
mod monitor;
mod noted;
mod outcome;
mod owned;
pub mod parking;
mod partition;
mod places;
pub mod policy;
mod progress;
mod releasing;
pub mod replay;
mod returned;
mod ring;
mod running;
mod scan;
#[cfg(all(test, feature = "shuttle"))]
mod schedules;
mod settler;
pub mod status;
mod subscriber;
pub mod subscription;
mod sync;
mod watch;
mod work;

pub use bus::{Bus, PublishError};
pub use dead_letter::topic_of as dead_letter_topic;
pub use parking::{OperatorError, ParkedKey, parked, release, skip};
pub use policy::{OnFailure, Retry};
pub use replay::{Replay, ReplayError, Replayed, Until};
pub use status::{PartitionStatus, Stall, StallKind, SubscriptionStatus};
pub use subscriber::{Drained, Subscriber, SubscriberError};
pub use subscription::{Subscription, SubscriptionError};
