//! What becomes of a call to the simulated database.

use std::time::Duration;

use aqueduct_memory::{Chances, Counts};

use super::dice::Dice;

#[derive(Debug)]
pub(crate) struct Weather {
    dice: Dice,
    chances: Chances,
    outage: bool,
    counts: Counts,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) verdict: Verdict,
    pub(crate) before: Duration,
    pub(crate) after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Nothing is done, and the caller hears so.
    Refused,
    /// Nothing is done, and the caller does not know.
    RequestLost,
    /// It is done, and the caller does not know.
    AnswerLost,
}

impl Weather {
    pub(crate) fn fair(dice: Dice) -> Self {
        Self { dice, chances: Chances::default(), outage: false, counts: Counts::default() }
    }

    pub(crate) fn turn(&mut self, chances: Chances) {
        self.chances = chances;
    }

    pub(crate) fn outage(&mut self, outage: bool) {
        self.outage = outage;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn fate(&mut self) -> Fate {
        let mut fate = Fate { verdict: Verdict::Pass, before: Duration::ZERO, after: Duration::ZERO };
        if self.outage {
            self.counts.outages += 1;
            return Fate { verdict: Verdict::Refused, ..fate };
        }
        if self.chances == Chances::default() {
            return fate;
        }
        let Chances { refused, request_lost, answer_lost, late, latest } = self.chances;
        if self.hit(late) {
            let longest = u64::try_from(latest.as_micros()).unwrap_or(u64::MAX);
            let while_ = Duration::from_micros(self.dice.between(0..=longest));
            *if self.dice.percent(50) { &mut fate.before } else { &mut fate.after } = while_;
            self.counts.late += 1;
        }
        if self.hit(refused) {
            fate.verdict = Verdict::Refused;
            self.counts.refused += 1;
        } else if self.hit(request_lost) {
            fate.verdict = Verdict::RequestLost;
            self.counts.requests_lost += 1;
        } else if self.hit(answer_lost) {
            fate.verdict = Verdict::AnswerLost;
            self.counts.answers_lost += 1;
        }
        fate
    }

    fn hit(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.dice.number() % 1_000 < u64::from(thousandths)
    }
}
