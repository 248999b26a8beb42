//! Telling each caller what became of its command.

use std::sync::atomic::Ordering;

use aqueduct_core::{LogError, LogErrorKind};

use crate::{
    beacon::sweep,
    command::Command,
    error::closed,
    shared::lock,
    writer::{Outcome, Writer},
};

impl Writer {
    /// After the commit.
    pub(crate) fn tell(&mut self, command: Command, outcome: Outcome) {
        // A caller that went away does not want its answer; what was stored stays stored.
        match (command, outcome) {
            (Command::Append(append), Outcome::Append(outcomes)) => {
                let failed = append.records.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_err());
                self.holds.tell(failed.map(|(record, _)| record), &self.shared.sequence);
                append.receipt.complete(outcomes);
            }
            (Command::Transaction(transaction), Outcome::Transaction(result)) => {
                drop(transaction.reply.send(result));
            }
            (Command::Settle { reply, .. }, Outcome::Settle(results)) => drop(reply.send(results)),
            (Command::EnsureTopic { reply, .. }, Outcome::Topic(result)) => drop(reply.send(result)),
            (Command::OpenProducer { reply, .. }, Outcome::Producer(result)) => drop(reply.send(result)),
            (command, Outcome::Group(Err(error))) => self.fail(command, &error),
            (Command::Join { id, reply, .. }, Outcome::Group(Ok(member))) => {
                id.store(member, Ordering::Release);
                if let Some(reply) = reply {
                    drop(reply.send(Ok(())));
                }
            }
            (Command::Leave { reply, .. }, Outcome::Group(Ok(_))) => {
                lock(&self.shared.groups).rest();
                if let Some(reply) = reply {
                    drop(reply.send(Ok(())));
                }
            }
            (Command::Answer { .. }, Outcome::Group(Ok(_))) => {}
            (Command::Tend { group }, Outcome::Group(Ok(_))) => {
                lock(&self.shared.groups).tended(&group);
                if let Err(error) = sweep(&self.shared.place.path) {
                    tracing::warn!(%error, "embedded log: member files of ended processes could not be removed");
                }
            }
            // Commands and outcomes are made in pairs.
            (command, _) => self.fail(command, &closed()),
        }
    }

    /// Nothing of the command was stored.
    pub(crate) fn fail(&mut self, command: Command, error: &LogError) {
        match command {
            Command::Append(append) => {
                self.holds.tell(append.records.iter(), &self.shared.sequence);
                append.receipt.fail(error);
            }
            Command::Transaction(transaction) => {
                let error = if self.poison.is_some() && error.kind() == LogErrorKind::Storage {
                    LogError::with_source(
                        LogErrorKind::UnknownOutcome,
                        format!(
                            "whether the transaction of {:?} is stored is not known",
                            transaction.producer
                        ),
                        error.clone(),
                    )
                } else {
                    error.clone()
                };
                drop(transaction.reply.send(Err(error)));
            }
            Command::Settle { settlements, reply, .. } => {
                drop(reply.send(vec![Err(error.clone()); settlements.len()]));
            }
            Command::EnsureTopic { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::OpenProducer { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Join { local, reply, .. } => {
                lock(&self.shared.groups).not_joined(local, error);
                if let Some(reply) = reply {
                    drop(reply.send(Err(error.clone())));
                }
            }
            Command::Leave { reply, .. } => {
                lock(&self.shared.groups).not_left();
                if let Some(reply) = reply {
                    drop(reply.send(Err(error.clone())));
                }
            }
            // The partitions are late one session on, and are taken then.
            Command::Answer { group, .. } => {
                tracing::warn!(%error, %group, "embedded log: partitions that were given back stay owned for now");
            }
            Command::Tend { group } => lock(&self.shared.groups).tended(&group),
            Command::Close { reply } => drop(reply.send(Err(error.clone()))),
        }
    }
}
