//! What shall fail next: as scripted, else by chance.

use std::{fmt::Display, time::Duration};

use aqueduct_core::{LogError, LogErrorKind};

/// How often things fail, in thousandths of the calls (of the records, for a producer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chances {
    /// `Unreachable`, and nothing was done. Reads, and what a consumer asks before it reads, are refused too.
    pub refused: u32,
    /// `UnknownOutcome`, and nothing was done.
    pub request_lost: u32,
    /// `UnknownOutcome`, and it was done.
    pub answer_lost: u32,
    /// It takes a while, up to `latest`: before it is done, or before its caller is told.
    pub late: u32,
    /// The longest such while.
    pub latest: Duration,
}

/// How often things have failed, since the log was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls that were refused.
    pub refused: u64,
    /// Outcomes that were not known where nothing was done.
    pub requests_lost: u64,
    /// Outcomes that were not known where it was done.
    pub answers_lost: u64,
    /// Calls that took a while.
    pub late: u64,
    /// Records and transactions that met an outage of a topic.
    pub outages: u64,
}

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Settle,
    Transaction,
    Read,
    /// What a consumer asks before it reads.
    Question,
}

impl Call {
    /// Whether it can be done while nobody knows.
    fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Question)
    }
}

/// Whether a call is carried out, and what its caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// It is not carried out.
    Fail(LogErrorKind),
    /// It is carried out, and its caller hears that the outcome is not known.
    AnswerLost,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) verdict: Verdict,
    /// The while before it is done.
    pub(crate) before: Duration,
    /// The while before its caller is told.
    pub(crate) after: Duration,
}

/// How many more times something fails, and how.
type Failing = Option<(usize, Verdict)>;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) appends: Failing,
    pub(crate) settles: Failing,
    pub(crate) transactions: Failing,
    pub(crate) questions: Failing,
    /// Topics whose names end so take nothing.
    outages: Vec<(String, LogErrorKind)>,
    /// Topics whose names end so are not known.
    forgotten: Vec<String>,
    chance: Option<(Random, Chances)>,
    pub(crate) counts: Counts,
}

impl Plan {
    pub(crate) fn by_chance(&mut self, seed: u64, chances: Chances) {
        self.chance = (chances != Chances::default()).then_some((Random(seed), chances));
    }

    pub(crate) fn fail_topics(&mut self, ending: &str, kind: LogErrorKind) {
        self.outages.push((ending.to_owned(), kind));
    }

    pub(crate) fn forget_topics(&mut self, ending: &str) {
        self.forgotten.push(ending.to_owned());
    }

    pub(crate) fn heal_topics(&mut self) {
        self.outages.clear();
        self.forgotten.clear();
    }

    /// Whether it is said of a topic that it does not exist.
    pub(crate) fn forgets(&self, topic: &str) -> bool {
        self.forgotten.iter().any(|ending| topic.ends_with(ending))
    }

    /// The outage that a topic is in, if it is in one.
    pub(crate) fn outage(&mut self, topic: &str) -> Option<LogErrorKind> {
        let (_, kind) = self.outages.iter().find(|(ending, _)| topic.ends_with(ending))?;
        self.counts.outages += 1;
        Some(*kind)
    }

    /// Decides one call, and uses a scripted failure up.
    pub(crate) fn fate(&mut self, call: Call) -> Fate {
        let mut fate = Fate { verdict: Verdict::Pass, before: Duration::ZERO, after: Duration::ZERO };
        let scripted = match call {
            Call::Append => take(&mut self.appends),
            Call::Settle => take(&mut self.settles),
            Call::Transaction => take(&mut self.transactions),
            Call::Question => take(&mut self.questions),
            Call::Read => None,
        };
        if let Some(verdict) = scripted {
            self.count(verdict);
            return Fate { verdict, ..fate };
        }
        let Some((random, chances)) = &mut self.chance else { return fate };
        if random.hit(chances.late) {
            let while_ = random.up_to(chances.latest);
            *if random.hit(500) { &mut fate.before } else { &mut fate.after } = while_;
            self.counts.late += 1;
        }
        if random.hit(chances.refused) {
            fate.verdict = Verdict::Fail(LogErrorKind::Unreachable);
        } else if call.writes() && random.hit(chances.request_lost) {
            fate.verdict = Verdict::Fail(LogErrorKind::UnknownOutcome);
        } else if call.writes() && random.hit(chances.answer_lost) {
            fate.verdict = Verdict::AnswerLost;
        }
        self.count(fate.verdict);
        fate
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => {}
            Verdict::Fail(LogErrorKind::UnknownOutcome) => self.counts.requests_lost += 1,
            Verdict::Fail(_) => self.counts.refused += 1,
            Verdict::AnswerLost => self.counts.answers_lost += 1,
        }
    }
}

fn take(failing: &mut Failing) -> Option<Verdict> {
    let (left, verdict) = failing.as_mut()?;
    *left = left.checked_sub(1)?;
    Some(*verdict)
}

pub(crate) fn error(kind: LogErrorKind, place: &impl Display) -> LogError {
    LogError::new(kind, format!("{place}: failed on command"))
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True in so many of a thousand cases.
    fn hit(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.next() % 1_000 < u64::from(thousandths)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.next() % micros.saturating_add(1))
    }
}

/// Waits; where there is nothing to wait for it needs no timer.
pub(crate) async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
