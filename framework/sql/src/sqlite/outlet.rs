//! What carries a relay's batches into the log.

use std::sync::Arc;

use aqueduct_core::{
    LogError, LogErrorKind, NewRecord, TopicName,
    log::{Producer, TransactionalProducer},
};
use tokio::sync::oneshot;

pub(super) enum Outlet {
    /// Each batch is a transaction, with the cursor's record for this topic in it.
    Transactions(Box<dyn TransactionalProducer>, TopicName),
    Plain(Arc<dyn Producer>),
}

impl Outlet {
    /// Where the cursor's record goes, if it has one.
    pub(super) fn cursor(&self) -> Option<&TopicName> {
        match self {
            Self::Transactions(_, topic) => Some(topic),
            Self::Plain(_) => None,
        }
    }

    /// Sends a batch. Where it fails, so many of its first records are in the log all the same; of those behind the one
    /// that failed some may be.
    pub(super) async fn send(&mut self, records: Vec<NewRecord>) -> Result<(), (usize, LogError)> {
        let producer = match self {
            Self::Transactions(producer, _) => {
                return producer.commit(records, None).await.map(drop).map_err(|error| (0, error));
            }
            Self::Plain(producer) => producer,
        };
        let (tell, told) = oneshot::channel();
        // Nobody listens where the relay was dropped meanwhile: its next leader sends the batch again.
        producer.enqueue(records, Box::new(move |outcomes| drop(tell.send(outcomes))));
        let outcomes = told.await.map_err(|_| {
            (0, LogError::new(LogErrorKind::UnknownOutcome, "the producer ended before the answer came"))
        })?;
        for (stored, outcome) in outcomes.into_iter().enumerate() {
            outcome.map_err(|error| (stored, error))?;
        }
        Ok(())
    }
}
