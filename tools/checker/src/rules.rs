//! What a run is judged by.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A consumer group of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name.
    pub group: String,
    /// The topics whose every record it handles.
    pub topics: BTreeSet<String>,
    /// Whether its handler has one effect of each.
    pub effects: Option<Once>,
    /// How many deliveries of a partition may be above its settled offset: the longest rewind.
    pub window: u64,
}

/// What takes effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Once {
    /// Each event, in a database: what was published twice under one id too.
    Event,
    /// Each record, in another topic.
    Record,
}

/// Reads `GROUP=TOPIC`, as observers are told what to look at.
///
/// # Errors
/// It is not of this form.
pub fn group_and_topic(text: &str) -> Result<(String, String), String> {
    let (group, topic) = text.split_once('=').ok_or("expected GROUP=TOPIC")?;
    Ok((group.to_owned(), topic.to_owned()))
}

/// What a run is judged by. Times are in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// The groups.
    pub subscriptions: Vec<Subscription>,
    /// Topics whose every record somebody invoked or staged. In others records are not judged.
    pub topics: BTreeSet<String>,
    /// Whether the log was read to its end after the last publish: only then is loss judged.
    pub read_to_end: bool,
    /// Whether all was healed, and waited for: only then must every record of a group have ended.
    pub healed: bool,
    /// Whether all parked keys were released: then none may be parked at the end.
    pub released: bool,
    /// Whether a process whose publish failed must not be told `Ok` again: what a failed sync does to a log.
    pub poisoned: bool,
    /// Kinds of faults in which the owner itself repeats a handler that had succeeded, under the same attempt: its
    /// database or the log did not take the outcome.
    pub repeating: BTreeSet<String>,
    /// Kinds of faults while which a drain may be late: a stopped process holds a lock that it needs.
    pub blocking: BTreeSet<String>,
    /// How long a partition with lag may stand without an end.
    pub stuck_after: u64,
    /// How long readiness may differ from the truth.
    pub readiness_slack: u64,
    /// How much later than its deadline a drain may end.
    pub drain_slack: u64,
    /// After how long a hand-over need not wait for what has begun any more: it comes again.
    pub hand_over: u64,
    /// Of 1,000 publishes outside of faults, how many must be acknowledged, else the run is void.
    pub ok_outside: u64,
    /// The same inside of faults.
    pub ok_inside: u64,
    /// Counts (see [`crate::Report::counts`]) that must be reached, else the run is void.
    pub at_least: BTreeMap<String, u64>,
}

impl Rules {
    /// What takes effect once in a group.
    pub(crate) fn once(&self, group: &str) -> Option<Once> {
        self.subscriptions.iter().find(|each| each.group == group)?.effects
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            subscriptions: Vec::new(),
            topics: BTreeSet::new(),
            read_to_end: true,
            healed: true,
            released: false,
            poisoned: false,
            repeating: BTreeSet::new(),
            blocking: BTreeSet::new(),
            stuck_after: 30_000_000,
            readiness_slack: 5_000_000,
            drain_slack: 200_000,
            hand_over: 1_000_000,
            ok_outside: 950,
            ok_inside: 300,
            at_least: BTreeMap::new(),
        }
    }
}
