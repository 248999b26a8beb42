//! What happens when a handler fails.

use std::time::Duration;

/// How often, and how far apart, a delivery is attempted. Retrying holds only the lane of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    initial: Duration,
    cap: Duration,
}

impl Retry {
    /// Five attempts, 100 ms apart at first, doubling up to 30 s, each with jitter.
    #[must_use]
    pub const fn exponential() -> Self {
        Self { attempts: 5, initial: Duration::from_millis(100), cap: Duration::from_secs(30) }
    }

    /// How many attempts in all; at least one.
    #[must_use]
    pub const fn attempts(self, attempts: u32) -> Self {
        Self { attempts: if attempts == 0 { 1 } else { attempts }, ..self }
    }

    /// The first delay.
    #[must_use]
    pub const fn initial(self, initial: Duration) -> Self {
        Self { initial, ..self }
    }

    /// The longest delay.
    #[must_use]
    pub const fn cap(self, cap: Duration) -> Self {
        Self { cap, ..self }
    }

    /// How many attempts in all.
    pub(crate) fn limit(&self) -> u32 {
        self.attempts
    }

    /// The longest delay, less up to half by `random`.
    pub(crate) fn longest(&self, random: u64) -> Duration {
        self.delay(u32::MAX, random)
    }

    /// The delay after the `attempt`-th failure (from 1): the doubled delay, less up to half by `random`.
    pub(crate) fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doubled =
            self.initial.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.cap);
        let half = full / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_micros(random % span)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::exponential()
    }
}

/// What happens to a record whose attempts are spent, that fails for good, or that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// It waits in `<group>.<topic>.parked`, with its original bytes and the reason, and its key's later records queue
    /// behind it until an operator releases the key; other keys go on. A record without a key becomes a dead letter.
    #[default]
    Park,
    /// A copy goes to `<group>.<topic>.dead`, with its original bytes and the reason; its successors go on.
    DeadLetter,
    /// Its partition stops, and says so, until the process starts again.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_with_at_most_half_off() {
        let retry = Retry::exponential().initial(Duration::from_millis(100)).cap(Duration::from_secs(1));
        for (attempt, full) in [(1, 100), (2, 200), (4, 800), (5, 1_000), (60, 1_000)] {
            let delay = |random| retry.delay(attempt, random);
            assert_eq!(delay(0), Duration::from_millis(full / 2));
            assert!(delay(u64::MAX) <= Duration::from_millis(full), "{attempt}");
        }
    }
}
