//! What can be observed. One line of a file each; the format is JSON, externally tagged.

use serde::{Deserialize, Serialize};

/// One observation: when, by whom, what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds of the one clock that all observers of a run share: the host's boot-time clock, or virtual time.
    pub at: u64,
    /// The process and its incarnation, such as `consumer-a2.17`: another one after each start.
    pub by: String,
    /// What was seen.
    pub saw: Observation,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic.
    pub topic: String,
    /// The number, from 0.
    pub partition: i32,
}

impl PartitionId {
    /// The `partition`-th of `topic`.
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl Place {
    /// The record at `offset` of a partition.
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32, offset: i64) -> Self {
        Self { topic: topic.into(), partition, offset }
    }

    /// Its partition.
    #[must_use]
    pub fn shard(&self) -> PartitionId {
        PartitionId { topic: self.topic.clone(), partition: self.partition }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// One event of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The event's id, unique over the run.
    pub id: String,
    /// The topic.
    pub topic: String,
    /// The key; each key has one writer.
    pub key: Option<String>,
    /// The number of this event among those of its key, dense from 1.
    pub kseq: u64,
    /// CRC-32 of the payload.
    pub crc: u32,
}

/// What became of an operation. An operation without a second line is `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Acknowledged.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// It may have happened.
    Unknown,
}

/// How a handler's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finished {
    /// It returned success. Written before it returns.
    Done,
    /// It returned an error, or panicked.
    Failed,
    /// It was dropped before it ended: its owner gave it up.
    Cancelled,
}

/// What a member of a group wrote under its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteKind {
    /// A settled offset.
    Commit,
    /// An effect in the service's database.
    Effect,
    /// A dead letter.
    Letter,
    /// A parked copy.
    Parked,
    /// The end mark of a parked copy.
    EndMark,
    /// An event that must be fenced.
    Publish,
}

/// A stall that a process reports of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// The consumer group.
    pub group: String,
    /// The partition, or none where the whole subscription stands (a dead client).
    pub shard: Option<PartitionId>,
    /// The kind, such as `key`, `outage`, `stopped`, `client`.
    pub kind: String,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    /// A publisher is about to publish. `op` is unique for its `by`. A caller's retry is a new incarnation.
    Invoke {
        /// The operation.
        op: u64,
        /// The source's incarnation.
        incarnation: String,
        /// What it publishes, in order.
        events: Vec<Sent>,
        /// Whether all of them become visible, or none.
        atomic: bool,
    },
    /// A publish returned.
    Complete {
        /// The operation.
        op: u64,
        /// What it returned.
        outcome: Outcome,
        /// Where the events are said to be, in order; or none.
        places: Vec<Place>,
    },
    /// The observer read this record.
    Record {
        /// Where.
        place: Place,
        /// The event's id; none where the record carries none.
        id: Option<String>,
        /// The key.
        key: Option<String>,
        /// CRC-32 of the payload.
        crc: u32,
    },
    /// The log reported that acknowledged offsets, from `first` to below `end`, are gone.
    Gone {
        /// The partition.
        shard: PartitionId,
        /// The first.
        first: i64,
        /// The one after the last.
        end: i64,
    },
    /// A member was given a partition, and starts reading it.
    Assigned {
        /// The consumer group.
        group: String,
        /// The partition.
        shard: PartitionId,
        /// The generation.
        generation: i64,
        /// The settled offset that it starts from; none where nothing was settled.
        settled: Option<i64>,
    },
    /// A member was asked for a partition.
    Revoking {
        /// The consumer group.
        group: String,
        /// The partition.
        shard: PartitionId,
    },
    /// A member gave a partition back, or heard that it had lost it.
    Revoked {
        /// The consumer group.
        group: String,
        /// The partition.
        shard: PartitionId,
    },
    /// A handler starts. `run` is unique for its `by`.
    Start {
        /// The run.
        run: u64,
        /// The consumer group.
        group: String,
        /// The source record, for a released one too.
        place: Place,
        /// The generation of the assignment.
        generation: i64,
        /// The event's id.
        id: String,
        /// The key.
        key: Option<String>,
        /// The attempt, from 1.
        attempt: u32,
        /// Whether it was parked before: attempts start anew.
        released: bool,
    },
    /// A handler's run ended.
    Finish {
        /// The run.
        run: u64,
        /// How.
        outcome: Finished,
    },
    /// A member's fenced write returned; the line's time is the end.
    Write {
        /// What it wrote.
        kind: WriteKind,
        /// The consumer group.
        group: String,
        /// The source partition.
        shard: PartitionId,
        /// The generation.
        generation: i64,
        /// When the call began.
        began: u64,
        /// What it returned.
        outcome: Outcome,
        /// Where it has a place in an order that is surer than time: the order's name and the number.
        order: Option<(String, i64)>,
    },
    /// The observer sampled a settled offset. The line's time is after the read.
    Settled {
        /// The consumer group.
        group: String,
        /// The partition.
        shard: PartitionId,
        /// The settled offset, or none.
        offset: Option<i64>,
        /// The offset after the partition's last record.
        end: i64,
    },
    /// The observer read an effect in a service's database.
    Effect {
        /// The consumer group whose handler wrote it.
        group: String,
        /// The event's id.
        id: String,
        /// The source record.
        place: Place,
        /// The generation that the handler ran under.
        generation: i64,
        /// Its number in the order of commits of that database.
        seq: i64,
        /// Ids of the events that its transaction staged.
        stages: Vec<String>,
    },
    /// The observer read a dead letter. The line's time is when it was set aside.
    Letter {
        /// The consumer group.
        group: String,
        /// The source record.
        place: Place,
        /// CRC-32 of the payload of the copy.
        crc: u32,
    },
    /// The observer read a parked copy. The line's time is when it was set aside.
    Parked {
        /// The consumer group.
        group: String,
        /// The source record.
        place: Place,
        /// CRC-32 of the payload of the copy.
        crc: u32,
    },
    /// The observer read the end mark of a parked copy. The line's time is when it was written.
    EndMark {
        /// The consumer group.
        group: String,
        /// The source record.
        place: Place,
    },
    /// An operator released a key.
    Release {
        /// The consumer group.
        group: String,
        /// The source topic.
        topic: String,
        /// The key.
        key: String,
    },
    /// A fault begins.
    Fault {
        /// Its number, unique over the run.
        fault: u64,
        /// Its kind, such as `kill`, `pause`.
        kind: String,
        /// What it is done to.
        target: String,
    },
    /// A fault, with all that it may cause, is over.
    Healed {
        /// Its number.
        fault: u64,
    },
    /// A process said whether it is ready.
    Ready {
        /// Whether.
        ready: bool,
        /// The stalls that it reports.
        stalls: Vec<Stalled>,
    },
    /// A process was asked to drain.
    Drain {
        /// The process, as in `by`.
        process: String,
        /// Its deadline, in microseconds.
        deadline: u64,
    },
    /// A process that was asked to drain has ended.
    Drained {
        /// The process, as in `by`.
        process: String,
        /// How many deliveries it reported as not finished.
        unfinished: u64,
    },
}
