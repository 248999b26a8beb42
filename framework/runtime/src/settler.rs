//! Stores settled offsets: in the database first, where they decide, then in the log, where lag tools read them.

use std::sync::Arc;

use aqueduct_core::{
    LogErrorKind,
    effects::{Claim, Effects},
    log::{Consumer, Offset, PartitionId, Settlement},
};

use crate::noted::Noted;

/// A settled offset that has moved.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub(crate) partition: PartitionId,
    pub(crate) generation: i64,
    pub(crate) claim: Option<Claim>,
    pub(crate) offset: Offset,
    pub(crate) noted: Noted,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Yes,
    /// Not now; the next round tries again.
    NotNow,
    /// The partition has a newer owner.
    Fenced,
}

/// One round. It may be dropped at any point: storing an offset twice changes nothing.
pub(crate) async fn store(
    effects: Option<Arc<dyn Effects>>,
    consumer: Arc<dyn Consumer>,
    round: Vec<Due>,
) -> Vec<(Due, Stored)> {
    let mut done = Vec::with_capacity(round.len());
    let mut raised = Vec::with_capacity(round.len());
    for due in round {
        let claim = due.claim.filter(|_| !aqueduct_core::planted("settled-in-the-log-alone"));
        match effects.as_ref().zip(claim) {
            None => raised.push(due),
            Some((effects, claim)) => match effects.raise(claim, due.offset).await {
                Ok(true) => raised.push(due),
                Ok(false) => done.push((due, Stored::Fenced)),
                Err(error) => {
                    tracing::warn!(partition = %due.partition, %error, "cannot store the settled offset, trying again");
                    done.push((due, Stored::NotNow));
                }
            },
        }
    }
    if raised.is_empty() {
        return done;
    }
    let settlements = raised.iter().map(|due| Settlement {
        partition: due.partition.clone(),
        generation: due.generation,
        offset: due.offset,
        metadata: due.noted.to_string(),
    });
    let results = consumer.settle(settlements.collect()).await;
    for (due, result) in raised.into_iter().zip(results) {
        let stored = match result {
            Ok(()) => Stored::Yes,
            Err(error) if error.kind() == LogErrorKind::StaleGeneration => Stored::Fenced,
            Err(_) if aqueduct_core::planted("failed-settle-taken-as-stored") => Stored::Yes,
            // A transaction of the partition comes first, which settles too.
            Err(error) if error.kind() == LogErrorKind::Held => Stored::NotNow,
            Err(error) => {
                tracing::warn!(partition = %due.partition, %error, "cannot settle, trying again");
                Stored::NotNow
            }
        };
        done.push((due, stored));
    }
    done
}
