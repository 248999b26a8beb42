//! What the writer is asked to do.

use std::sync::Arc;

use aqueduct_core::{
    LogError, NewRecord, TopicName,
    log::{Outcomes, Position, Receipt, Settlement, TopicInfo, TopicSpec},
};
use tokio::sync::oneshot;

use crate::{
    error::closed,
    groups::{Answer, CurrentId},
};

/// One thing to write, or to end.
#[derive(Debug)]
pub(crate) enum Command {
    Append(Append),
    Transaction(Transaction),
    Settle {
        group: Arc<str>,
        member: i64,
        settlements: Vec<Settlement>,
        reply: oneshot::Sender<Vec<Result<(), LogError>>>,
    },
    EnsureTopic {
        spec: TopicSpec,
        reply: oneshot::Sender<Result<TopicInfo, LogError>>,
    },
    OpenProducer {
        id: String,
        reply: oneshot::Sender<Result<i64, LogError>>,
    },
    /// Adds a member of this process, or one that others had removed.
    Join {
        local: u64,
        group: Arc<str>,
        topics: Vec<TopicName>,
        id: CurrentId,
        reply: Option<oneshot::Sender<Result<(), LogError>>>,
    },
    /// Removes a member of this process.
    Leave {
        local: u64,
        group: Arc<str>,
        id: CurrentId,
        reply: Option<oneshot::Sender<Result<(), LogError>>>,
    },
    /// Gives back partitions that a member was asked for.
    Answer {
        group: Arc<str>,
        answer: Answer,
    },
    /// Does the housekeeping of a group.
    Tend {
        group: Arc<str>,
    },
    Close {
        reply: oneshot::Sender<Result<(), LogError>>,
    },
}

/// Records of a plain producer.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) sequence: u64,
    pub(crate) records: Vec<NewRecord>,
    pub(crate) receipt: ReceiptGuard,
}

/// Records and settlements of a transactional producer.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) producer: String,
    pub(crate) epoch: i64,
    pub(crate) records: Vec<NewRecord>,
    /// Whose settlements they are: group and member.
    pub(crate) group: Option<(Arc<str>, i64)>,
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) reply: oneshot::Sender<Result<Vec<Position>, LogError>>,
}

/// A receipt that is completed even when its batch is dropped on the way.
pub(crate) struct ReceiptGuard {
    receipt: Option<Box<dyn Receipt>>,
    records: usize,
}

impl ReceiptGuard {
    pub(crate) fn new(receipt: Box<dyn Receipt>, records: usize) -> Self {
        Self { receipt: Some(receipt), records }
    }

    pub(crate) fn complete(mut self, outcomes: Outcomes) {
        if let Some(receipt) = self.receipt.take() {
            receipt.complete(outcomes);
        }
    }

    pub(crate) fn fail(self, error: &LogError) {
        let outcomes = vec![Err(error.clone()); self.records];
        self.complete(outcomes);
    }
}

impl std::fmt::Debug for ReceiptGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receipt({} records)", self.records)
    }
}

impl Drop for ReceiptGuard {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            receipt.complete(vec![Err(closed()); self.records]);
        }
    }
}
