//! What reads a partition ahead of its task: by one batch. It waits out an unreachable log, and waits at what can never
//! be read, or was removed before it was read, until an operator has it passed over.

use std::{ops::Range, sync::Arc, time::Duration};

use aqueduct_core::{
    LogError, LogErrorKind, RecordBatch,
    log::{Offset, PartitionReader},
};
use tokio::sync::mpsc;

use crate::{
    delivery::{Assigned, Shared},
    parking::{self, control},
};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(10);

/// How often it is looked whether an operator has spoken.
const LOOK: Duration = Duration::from_secs(1);

/// What a partition's task is told.
#[derive(Debug)]
pub(crate) enum Fed {
    /// Records, and where the reader stood afterwards.
    Records(Arc<dyn RecordBatch>, Offset),
    /// Nothing more is read, for this reason, unless an operator passes it.
    Stuck(String),
    /// An operator had the reader go on here.
    Passed(Offset),
    /// The end.
    Over(LogError),
}

pub(crate) struct Feeder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) assigned: Arc<Assigned>,
    pub(crate) reader: Box<dyn PartitionReader>,
}

impl Feeder {
    /// Reads until nobody listens any more.
    pub(crate) async fn run(mut self, told: mpsc::Sender<Fed>) {
        let mut delay = FIRST_DELAY;
        loop {
            let tell = match self.reader.read(super::partition::READ_BATCH).await {
                Ok(batch) => {
                    delay = FIRST_DELAY;
                    Fed::Records(batch, self.reader.position())
                }
                Err(error) if error.kind() == LogErrorKind::Unreachable => {
                    tracing::warn!(%error, ?delay, "cannot read, trying again");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(LAST_DELAY);
                    continue;
                }
                Err(error) => match self.gone(&error) {
                    Some(offsets) => {
                        let first = offsets.start;
                        let to = match self.asked(first).await {
                            Some(to) => to,
                            None => {
                                if told.send(Fed::Stuck(self.stuck(&error, offsets))).await.is_err() {
                                    return;
                                }
                                self.passed(first).await
                            }
                        };
                        self.reader.seek(to);
                        Fed::Passed(to)
                    }
                    None => Fed::Over(error),
                },
            };
            let over = matches!(tell, Fed::Over(_));
            if told.send(tell).await.is_err() || over {
                return;
            }
        }
    }

    /// The offsets before the next one that can be read, where they are the trouble.
    fn gone(&self, error: &LogError) -> Option<Range<Offset>> {
        match (error.kind(), self.reader.position()) {
            (LogErrorKind::Unreadable { first, end }, _) => Some(first..end),
            // Retention was faster than this group. What is beyond the end is another trouble: the log went back.
            (LogErrorKind::OffsetOutOfRange { first, .. }, next) if next < first => Some(next..first),
            _ => None,
        }
    }

    fn stuck(&self, error: &LogError, offsets: Range<Offset>) -> String {
        let (subscription, partition) = (&self.shared.subscription.name, &self.assigned.partition);
        let Range { start, end } = offsets;
        let reason =
            format!("offsets {start} to before {end} can never be read, until `skip` passes them: {error}");
        tracing::error!(subscription, %partition, reason, "stopped");
        reason
    }

    /// Waits until an operator says where to go on.
    async fn passed(&mut self, first: Offset) -> Offset {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(to) = self.asked(first).await {
                return to;
            }
        }
    }

    /// Where an operator had it go on. Exclusive: a reader may go to another thread, not be shared.
    async fn asked(&mut self, first: Offset) -> Option<Offset> {
        let (subscription, log) = (&self.shared.subscription.name, self.shared.bus.log());
        let Assigned { partition, topic_id, .. } = &*self.assigned;
        let asked = match parking::control_topic(subscription) {
            Ok(control) => control::skipped(&**log, control, partition, *topic_id, first).await,
            Err(error) => Err(error.into()),
        };
        asked.unwrap_or_else(|error| {
            tracing::warn!(subscription, %partition, %error, "cannot ask what is passed over");
            None
        }).inspect(|to| {
            tracing::warn!(subscription, %partition, first, to, "an operator has these offsets passed over");
        })
    }
}
