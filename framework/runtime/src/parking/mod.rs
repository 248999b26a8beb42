//! Parked keys (DESIGN P6): a key whose record failed waits in `<group>.<topic>.parked` with its successors, in order,
//! until it is released.
//!
//! - `frame`: a parked record as the topic holds it
//! - `index`: what one partition's owner knows of its parked keys
//! - `rebuild`: reads that from the log at assignment, before anything is delivered
//! - `control`: `<group>.control`, where operators ask for releases and owners tell how they ended, and where it is said
//!   what is passed over
//! - `operator`: what an operator calls

pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod index;
mod operator;
pub(crate) mod rebuild;

use aqueduct_core::{
    LogError, TopicName,
    log::{CommitLog, TopicSpec},
    name::NameError,
};

pub(crate) use operator::keys;
pub use operator::{OperatorError, ParkedKey, parked, release, skip};

/// The topic of a group's parked records of `topic`.
pub(crate) fn topic_of(group: &str, topic: &TopicName) -> Result<TopicName, NameError> {
    TopicName::new(&format!("{group}.{topic}.parked"))
}

/// The topic where a group's releases are asked for.
pub(crate) fn control_topic(group: &str) -> Result<TopicName, NameError> {
    TopicName::new(&format!("{group}.control"))
}

/// Makes the parked topic of `topic`: as many partitions, compacted.
pub(crate) async fn ensure(log: &dyn CommitLog, group: &str, topic: &TopicName) -> Result<(), LogError> {
    let mut spec = TopicSpec::new(topic_of(group, topic)?);
    spec.partitions = log.describe_topic(topic).await?.and_then(|info| info.spec.partitions);
    spec.compacted = true;
    follow(log, spec).await
}

/// Makes a topic of ours that follows another one, partition by partition.
pub(crate) async fn follow(log: &dyn CommitLog, spec: TopicSpec) -> Result<(), LogError> {
    let partitions = spec.partitions;
    let info = log.ensure_topic(spec).await?;
    match (partitions, info.spec.partitions) {
        (Some(wanted), Some(found)) if found < wanted => log.add_partitions(&info.spec.name, wanted).await,
        _ => Ok(()),
    }
}

/// Makes the control topic.
pub(crate) async fn ensure_control(log: &dyn CommitLog, group: &str) -> Result<(), LogError> {
    let mut spec = TopicSpec::new(control_topic(group)?);
    spec.partitions = Some(1);
    log.ensure_topic(spec).await.map(drop)
}
