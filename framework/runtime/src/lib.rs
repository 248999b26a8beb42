//! Publishing and subscriptions over any commit log.
//!
//! - [`bus`]: [`Bus`], which publishes; `gate` keeps the order of calls and bounds what is in flight
//! - [`subscription`]: [`Subscription`], what a service declares; its guarantee line
//! - [`policy`]: [`Retry`] and [`OnFailure`]
//! - `subscriber`: one task per subscription, which owns the consumer: assignments, settling, drain
//! - `settler`: stores settled offsets
//! - `partition`: one task per partition: window, lanes by key, the ring of ended deliveries
//! - `delivery`: the attempts at one record, its transaction, its dead letter
//! - [`status`]: what a subscription says of itself

pub mod bus;
mod dead_letter;
mod delivery;
mod gate;
mod partition;
pub mod policy;
mod ring;
mod settler;
pub mod status;
mod subscriber;
pub mod subscription;

pub use bus::{Bus, PublishError};
pub use dead_letter::topic_of as dead_letter_topic;
pub use policy::{OnFailure, Retry};
pub use status::{PartitionStatus, SubscriptionStatus};
pub use subscriber::{Drained, Subscriber, SubscriberError};
pub use subscription::{Subscription, SubscriptionError};
