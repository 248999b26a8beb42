//! Whether a handler works, as far as its other deliveries tell: an outage is not poison.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What is known of one handler. Successes are counted only while some delivery of it fails: the usual path pays one
/// load.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failing: AtomicUsize,
    successes: AtomicU64,
}

impl Health {
    /// A delivery succeeded.
    pub(crate) fn succeeded(&self) {
        if self.failing.load(Ordering::Relaxed) > 0 {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A delivery failed for the first time.
    pub(crate) fn failing(self: &Arc<Self>) -> Failing {
        self.failing.fetch_add(1, Ordering::Relaxed);
        Failing { stamp: self.successes.load(Ordering::Relaxed), health: Arc::clone(self) }
    }
}

/// A delivery that has failed and not ended.
#[derive(Debug)]
pub(crate) struct Failing {
    health: Arc<Health>,
    stamp: u64,
}

impl Failing {
    /// Whether another delivery of the handler has succeeded since this one failed first.
    pub(crate) fn others_succeed(&self) -> bool {
        self.health.successes.load(Ordering::Relaxed) > self.stamp
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.health.failing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3. Red when `others_succeed` compares with zero: an old success would then count as evidence.
    #[test]
    fn only_a_success_after_the_first_failure_is_evidence() {
        let health = Arc::new(Health::default());
        let early = health.failing();
        health.succeeded();
        let late = health.failing();
        assert!(early.others_succeed());
        assert!(!late.others_succeed());
        drop((early, late));
        health.succeeded();
        assert!(!health.failing().others_succeed());
    }
}
