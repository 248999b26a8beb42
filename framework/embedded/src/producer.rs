//! Producers: plain ones, whose batches take their place at the call, and transactional ones.

use std::sync::Arc;

use aqueduct_core::{
    BoxFuture, LogError, NewRecord,
    log::{GroupToken, Position, Producer, Receipt, Settlement, TransactionalProducer},
};

use crate::{
    command::{Append, Command, ReceiptGuard, Transaction},
    consumer::Membership,
    error::closed,
    options::configuration,
    shared::Handle,
    writer::draw,
};

/// Appends records.
#[derive(Debug)]
pub(crate) struct EmbeddedProducer {
    pub(crate) handle: Arc<Handle>,
}

impl Producer for EmbeddedProducer {
    fn enqueue(&self, batch: Vec<NewRecord>, receipt: Box<dyn Receipt>) {
        let receipt = ReceiptGuard::new(receipt, batch.len());
        if let Err(error) = self.handle.shared.check() {
            return receipt.fail(&error);
        }
        let append = Append { sequence: draw(&self.handle.shared), records: batch, receipt };
        if let Err(refused) = self.handle.writer.send(Command::Append(append))
            && let Command::Append(append) = refused.0
        {
            append.receipt.fail(&closed());
        }
    }
}

/// Appends records and settles offsets as one.
#[derive(Debug)]
pub(crate) struct EmbeddedTransactions {
    pub(crate) handle: Arc<Handle>,
    pub(crate) id: String,
    pub(crate) epoch: i64,
}

impl TransactionalProducer for EmbeddedTransactions {
    fn commit(
        &mut self,
        records: Vec<NewRecord>,
        settlements: Option<(GroupToken, Vec<Settlement>)>,
    ) -> BoxFuture<'_, Result<Vec<Position>, LogError>> {
        Box::pin(async move {
            let (group, settlements) = match settlements {
                None => (None, Vec::new()),
                Some((token, settlements)) => {
                    let member = self.member(&token)?;
                    member.check()?;
                    (Some((Arc::clone(&member.group), member.id())), settlements)
                }
            };
            let (producer, epoch) = (self.id.clone(), self.epoch);
            self.handle
                .command(|reply| {
                    Command::Transaction(Transaction { producer, epoch, records, group, settlements, reply })
                })
                .await?
        })
    }
}

impl EmbeddedTransactions {
    fn member<'a>(&self, token: &'a GroupToken) -> Result<&'a Membership, LogError> {
        match token.0.downcast_ref::<Membership>() {
            Some(member) if Arc::ptr_eq(&member.shared, &self.handle.shared) => Ok(member),
            _ => {
                Err(configuration(format!("producer {:?} was given the group token of another log", self.id)))
            }
        }
    }
}
