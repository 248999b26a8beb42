//! The commit log on Apache Kafka, by librdkafka.
//!
//! Clients, and the thread that serves each:
//!
//! - one that asks (topics, ends, settled offsets), `shared`;
//! - a producing one for each producer, `sender`;
//! - one for each member of a group, which reads nothing, `member`;
//! - those that read, without a group, shared by all readers of the log, `fetcher`.
//!
//! What a user sets is in `options` and `properties`; the first question, in which a wrong address, credential or
//! certificate shows, in `probe`.
//!
//! A member that reads nothing is never stopped by what its group does: librdkafka pauses all partitions of a member while
//! a rebalance waits for an answer, and there are none here. `unsafe` is in `native` alone.

mod batch;
mod consumer;
mod context;
mod error;
mod fetcher;
mod log;
mod member;
#[allow(unsafe_code, reason = "the one module that calls the library directly")]
mod native;
mod options;
mod probe;
mod producer;
mod properties;
mod reader;
mod sender;
mod shared;
mod transactions;

pub use log::KafkaLog;
pub use options::KafkaOptions;
