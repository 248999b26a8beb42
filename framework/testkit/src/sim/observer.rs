//! What a run lets an observer see.

use std::{fmt, time::Duration};

use aqueduct_core::log::{Offset, PartitionId, Position};
use aqueduct_runtime::PublishError;

/// Told what happens in a run, as it happens. `by` is the process and its incarnation, such as `app-2.3`.
pub trait Observer: Send + Sync {
    /// Something happened, so long after the beginning.
    fn saw(&self, at: Duration, by: &str, seen: Seen<'_>);
}

/// Sees nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn saw(&self, _: Duration, _: &str, _: Seen<'_>) {}
}

/// One event of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its number among the events of its key, from 1.
    pub number: u64,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What a member of a group wrote under its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// A settled offset.
    Settled,
    /// A dead letter.
    Letter,
    /// A parked copy.
    Parked,
    /// The end mark of a parked copy.
    EndMark,
}

/// What a write returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Certainly not done.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What happened.
pub enum Seen<'a> {
    /// A publisher is about to publish; a second try of the same events has another `incarnation`.
    Publishing {
        /// The call, unique in the run.
        call: u64,
        /// The publisher's incarnation.
        incarnation: String,
        /// What it publishes.
        events: &'a [Sent],
    },
    /// A publish returned.
    Published {
        /// The call.
        call: u64,
        /// What it returned.
        outcome: Result<&'a [Position], &'a PublishError>,
    },
    /// A process was given a partition, and starts to read it.
    Assigned {
        /// The group.
        group: &'a str,
        /// The partition.
        partition: &'a PartitionId,
        /// The generation.
        generation: i64,
        /// Where it starts: as the log has it, or the database where there is one.
        settled: Option<Offset>,
    },
    /// A process wrote under a generation.
    Wrote {
        /// What.
        what: Written,
        /// The group.
        group: &'a str,
        /// The partition.
        partition: &'a PartitionId,
        /// The generation.
        generation: i64,
        /// When it began.
        began: Duration,
        /// What it was told.
        answer: Answer,
    },
    /// How far a partition is settled, from outside.
    Settled {
        /// The group.
        group: &'a str,
        /// The partition.
        partition: &'a PartitionId,
        /// The settled offset.
        offset: Option<Offset>,
        /// The offset after the last record.
        end: Offset,
    },
    /// What a process says of itself.
    Status(&'a aqueduct_app::Status),
    /// An operator released a key.
    Released {
        /// The partition that it is of.
        partition: &'a PartitionId,
        /// The key.
        key: &'a [u8],
    },
    /// A fault begins.
    Fault {
        /// Its number.
        number: u64,
        /// Its kind.
        kind: &'a str,
    },
    /// A fault is over.
    Healed {
        /// Its number.
        number: u64,
    },
    /// A process was asked to drain.
    Draining {
        /// Within this time.
        deadline: Duration,
    },
    /// It has ended.
    Drained,
}

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publishing { call, .. } => write!(f, "Publishing {call}"),
            Self::Published { call, outcome } => write!(f, "Published {call}: {outcome:?}"),
            Self::Assigned { group, partition, generation, settled } => {
                write!(f, "Assigned {group} {partition} {generation} {settled:?}")
            }
            Self::Wrote { what, group, partition, generation, answer, .. } => {
                write!(f, "Wrote {what:?} {group} {partition} {generation} {answer:?}")
            }
            Self::Settled { group, partition, offset, end } => {
                write!(f, "Settled {group} {partition} {offset:?} of {end}")
            }
            Self::Status(status) => write!(f, "Status {:?}", status.readiness()),
            Self::Released { partition, key } => write!(f, "Released {partition} {}", key.escape_ascii()),
            Self::Fault { number, kind } => write!(f, "Fault {number} {kind}"),
            Self::Healed { number } => write!(f, "Healed {number}"),
            Self::Draining { deadline } => write!(f, "Draining {deadline:?}"),
            Self::Drained => write!(f, "Drained"),
        }
    }
}
