//! What clients say that no call of ours waits for.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

/// Keeps the last error: it alone carries the cause of a connection that fails.
#[derive(Debug, Default)]
pub(crate) struct Context {
    last: Mutex<Option<Met>>,
    verified: AtomicBool,
}

/// An error that a client met.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

impl Context {
    /// What the client met last, such as why it cannot connect.
    pub(crate) fn last(&self) -> Option<Met> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a certificate was accepted. The client says so only with `debug=security`.
    pub(crate) fn has_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "SSLVERIFY" {
            self.verified.store(true, Ordering::Relaxed);
        }
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a client of Kafka met an error");
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // That all brokers are down follows the error that says why.
        if last.is_none() || code != Code::AllBrokersDown {
            *last = Some(Met { code, reason: reason.to_owned() });
        }
    }
}

impl ConsumerContext for Context {}

/// The client repeats itself while a broker is away, so only what it holds for grave is said aloud.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}
