//! Stores settled offsets: in the database first, where they decide, then in the log, where lag tools read them.

use std::sync::Arc;

use aqueduct_core::{
    LogError, LogErrorKind,
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
    /// Something of the partition was stored before.
    pub(crate) begun: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Yes,
    /// Not now, and why; the next round tries again.
    NotNow(String),
    /// There is no such offset in the log.
    Refused,
    /// The partition has a newer owner.
    Fenced,
}

/// One round. It may be dropped at any point: storing an offset twice changes nothing.
pub(crate) async fn store(
    effects: Option<Arc<dyn Effects>>,
    consumer: Arc<dyn Consumer>,
    round: Vec<Due>,
) -> Vec<(Due, Stored)> {
    let effects = effects.as_deref();
    let (begun, new): (Vec<_>, Vec<_>) = round.into_iter().partition(|due| due.begun);
    let (raised, mut done) = raise(effects, begun).await;
    done.extend(settle(&*consumer, raised).await);
    // Where a partition begins the log is asked first: a process that has lost it says nothing in the database.
    let (stored, refused): (Vec<_>, Vec<_>) =
        settle(&*consumer, new).await.into_iter().partition(|(_, stored)| *stored == Stored::Yes);
    let (raised, fenced) = raise(effects, stored.into_iter().map(|(due, _)| due).collect()).await;
    done.extend(raised.into_iter().map(|due| (due, Stored::Yes)));
    done.into_iter().chain(refused).chain(fenced).collect()
}

/// Raises the settled offsets in the database. Gives those that were raised, and the others.
async fn raise(effects: Option<&dyn Effects>, round: Vec<Due>) -> (Vec<Due>, Vec<(Due, Stored)>) {
    let (mut raised, mut others) = (Vec::with_capacity(round.len()), Vec::new());
    for due in round {
        let claim = due.claim.filter(|_| !aqueduct_core::planted("settled-in-the-log-alone"));
        match effects.zip(claim) {
            None => raised.push(due),
            Some((effects, claim)) => match effects.raise(claim, due.offset).await {
                Ok(true) => raised.push(due),
                Ok(false) => others.push((due, Stored::Fenced)),
                Err(error) => {
                    tracing::warn!(partition = %due.partition, %error, "cannot store the settled offset, trying again");
                    others.push((due, Stored::NotNow(error.to_string())));
                }
            },
        }
    }
    (raised, others)
}

/// Stores the settled offsets in the log.
async fn settle(consumer: &dyn Consumer, round: Vec<Due>) -> Vec<(Due, Stored)> {
    if round.is_empty() {
        return Vec::new();
    }
    let settlements = round.iter().map(|due| Settlement {
        partition: due.partition.clone(),
        generation: due.generation,
        offset: due.offset,
        metadata: due.noted.to_string(),
    });
    let results = consumer.settle(settlements.collect()).await;
    let stored = |(due, result): (Due, Result<(), LogError>)| {
        let stored = match result {
            Ok(()) => Stored::Yes,
            Err(error) if error.kind() == LogErrorKind::StaleGeneration => Stored::Fenced,
            Err(_) if aqueduct_core::planted("failed-settle-taken-as-stored") => Stored::Yes,
            // A transaction of the partition comes first, which settles too.
            Err(error) if error.kind() == LogErrorKind::Held => Stored::NotNow(error.to_string()),
            Err(error) => {
                tracing::warn!(partition = %due.partition, %error, "cannot settle, trying again");
                match error.kind() {
                    LogErrorKind::OffsetOutOfRange { .. } => Stored::Refused,
                    _ => Stored::NotNow(error.to_string()),
                }
            }
        };
        (due, stored)
    };
    round.into_iter().zip(results).map(stored).collect()
}
