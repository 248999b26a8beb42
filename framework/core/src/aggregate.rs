//! Event sourcing: state rebuilt from its own events, deciding new ones from commands.

use serde::{Serialize, de::DeserializeOwned};

use crate::event::EventSet;

/// The state of an aggregate, and its two pure functions. No I/O, no clock: what it needs is in the command.
pub trait Aggregate: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Raise it when `evolve` or the state's fields change meaning: snapshots of another version are rebuilt from
    /// the events.
    const STATE_VERSION: u32;
    /// What may be asked of it.
    type Command;
    /// Its events: one type, or an enum that derives `EventSet`.
    type Event: EventSet;
    /// Why it may say no.
    type Refusal;

    /// Decides what happens, changing nothing.
    ///
    /// # Errors
    /// The command is refused.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// Applies an event that happened.
    fn evolve(&mut self, event: &Self::Event);
}
