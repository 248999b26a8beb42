//! Keys whose record failed: what was enqueued for them before the failure was told must not overtake it (P2).

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use aqueduct_core::{NewRecord, TopicName};
use bytes::Bytes;

/// Failed keys, each with the first sequence that is free of the failure.
#[derive(Debug, Default)]
pub(crate) struct Holds(HashMap<(TopicName, Bytes), u64>);

impl Holds {
    /// Forgets failures that were told before `sequence` was drawn.
    pub(crate) fn forget_before(&mut self, sequence: u64) {
        if !self.0.is_empty() {
            self.0.retain(|_, free| *free > sequence);
        }
    }

    /// Whether a record enqueued under `sequence` comes after a failure that its caller could not know.
    pub(crate) fn holds(&self, record: &NewRecord, sequence: u64) -> bool {
        let Some(key) = &record.key else { return false };
        // The usual case costs no clone.
        !self.0.is_empty()
            && self.0.get(&(record.topic.clone(), key.clone())).is_some_and(|free| sequence < *free)
    }

    /// A record failed, and its caller has not been told.
    pub(crate) fn fail(&mut self, record: &NewRecord) {
        if let Some(key) = &record.key
            && !aqueduct_core::planted("embedded-holds-nothing")
        {
            self.0.insert((record.topic.clone(), key.clone()), u64::MAX);
        }
    }

    /// The caller is told now: what it enqueues from here on is free.
    pub(crate) fn tell<'a>(&mut self, failed: impl Iterator<Item = &'a NewRecord>, sequence: &AtomicU64) {
        for record in failed {
            if let Some(key) = &record.key {
                let free = sequence.load(Ordering::Acquire);
                self.0.insert((record.topic.clone(), key.clone()), free);
            }
        }
    }
}
