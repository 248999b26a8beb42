//! Decides, from what was observed, whether a run kept the promises: lost, phantom, reordered, overlapping,
//! settled too far, zombie, doubled, stuck, lying readiness, late drain.
//!
//! Processes, an observer and a simulation write [`Observation`]s; [`History`] gathers them, [`History::check`]
//! decides by [`Rules`]. Nothing here links, or believes, the framework that is judged: a test reads the manifest.

mod check;
mod crc;
mod history;
mod observation;
mod recorder;
mod report;
mod rules;
mod sampler;
mod stored;

pub use crc::crc32;
pub use history::{History, HistoryError};
pub use observation::{Finished, Line, Observation, Outcome, PartitionId, Place, Sent, Stalled, WriteKind};
pub use recorder::{Recorder, boot_minus_wall, now};
pub use report::{Kind, Report, Verdict};
pub use rules::{Once, Rules, Subscription, group_and_topic};
pub use sampler::{Sampler, until_told};
pub use stored::Stored;
