//! Given events, when a command, then events or a refusal.

use std::fmt::Debug;

use aqueduct_core::Aggregate;

use super::diff::assert_same;

/// Begins with an aggregate as it is before its first event.
pub fn aggregate<A: Aggregate>(initial: A) -> GivenAggregate<A> {
    GivenAggregate { state: initial }
}

/// An aggregate, with what happened to it.
#[derive(Debug)]
pub struct GivenAggregate<A> {
    state: A,
}

impl<A: Aggregate> GivenAggregate<A> {
    /// These happened.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = A::Event>) -> Self {
        for event in events {
            self.state.evolve(&event);
        }
        self
    }

    /// Decides a command.
    pub fn when(self, command: A::Command) -> Decided<A> {
        let outcome = self.state.decide(command);
        Decided { state: self.state, outcome }
    }
}

/// What was decided.
#[must_use = "nothing is asserted yet: go on with `.then(..)`"]
pub struct Decided<A: Aggregate> {
    state: A,
    outcome: Result<Vec<A::Event>, A::Refusal>,
}

impl<A> Decided<A>
where
    A: Aggregate<Event: Debug, Refusal: Debug>,
{
    /// Exactly these events, in this order; then they happen, and the story can go on.
    ///
    /// # Panics
    /// Others were decided, or the command was refused: the message shows the difference.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> GivenAggregate<A> {
        let expected: Vec<_> = expected.into_iter().collect();
        match self.outcome {
            Err(refusal) => panic!("the command was refused: {refusal:?}; expected: {expected:#?}"),
            Ok(events) => {
                assert_same("the events that were decided", &expected, &events);
                GivenAggregate { state: self.state }.events(events)
            }
        }
    }

    /// The command is refused so; nothing happened, and the story can go on.
    ///
    /// # Panics
    /// It was not refused, or for another reason.
    #[track_caller]
    pub fn then_refused(self, expected: &A::Refusal) -> GivenAggregate<A>
    where
        A::Refusal: PartialEq,
    {
        match self.outcome {
            Ok(events) => panic!("{expected:?} was expected, and the command was accepted: {events:#?}"),
            Err(refusal) => {
                assert!(refusal == *expected, "refused with {refusal:?}, expected was {expected:?}");
                GivenAggregate { state: self.state }
            }
        }
    }
}

impl<A> GivenAggregate<A>
where
    A: Aggregate + Debug + PartialEq,
{
    /// The state is this.
    ///
    /// # Panics
    /// It is another: the message shows the difference.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use, reason = "it may end the story")]
    pub fn then_state(self, expected: &A) -> Self {
        assert_same("the state", &[expected], &[&self.state]);
        self
    }
}

impl<A: Aggregate> std::fmt::Debug for Decided<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decided").field("accepted", &self.outcome.is_ok()).finish_non_exhaustive()
    }
}
