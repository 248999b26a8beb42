//! Given, when, then: what passes, what fails, and how it says so.

use std::panic::{AssertUnwindSafe, catch_unwind};

use aqueduct_core::{
    Aggregate, Delivery, Envelope, Handled, RetryAfter, State, Terminal, Timestamp, handler::Outcome,
};
use aqueduct_derive::Event;
use aqueduct_testkit::given;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "given.Counted", topic = "counts", key = who, crate = aqueduct_core)]
struct Counted {
    who: String,
    by: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Count(u32);

impl Aggregate for Count {
    const STATE_VERSION: u32 = 1;
    type Command = u32;
    type Event = Counted;
    type Refusal = &'static str;

    fn decide(&self, by: u32) -> Result<Vec<Counted>, &'static str> {
        if self.0 + by > 10 { Err("too many") } else { Ok(vec![counted(by)]) }
    }

    fn evolve(&mut self, event: &Counted) {
        self.0 += event.by;
    }
}

fn counted(by: u32) -> Counted {
    Counted { who: "a".to_owned(), by }
}

fn message(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("it should have failed");
    panic.downcast_ref::<String>().expect("a formatted message").clone()
}

/// Red when `then` does not let the events happen.
#[test]
fn an_aggregate_goes_on_with_what_it_decided() {
    given::aggregate(Count(0))
        .events([counted(3)])
        .when(4)
        .then([counted(4)])
        .then_state(&Count(7))
        .when(4)
        .then_refused(&"too many")
        .then_state(&Count(7));
}

#[test]
fn what_differs_is_shown_as_a_difference() {
    let said = message(|| {
        given::aggregate(Count(0)).when(4).then([counted(5)]);
    });
    let expected = "the events that were decided (- expected, + found):\n  Counted {\n      who: \"a\",\n-     by: 5,\n+     by: 4,\n  }\n";
    assert_eq!(said, expected);
    assert!(
        message(|| {
            given::aggregate(Count(9)).when(4).then([]);
        })
        .contains("refused: \"too many\"")
    );
    assert!(
        message(|| {
            given::aggregate(Count(0)).when(4).then_refused(&"no");
        })
        .contains("was accepted")
    );
    assert!(
        message(|| {
            given::aggregate(Count(0)).then_state(&Count(1));
        })
        .contains("-     1,\n+     0,")
    );
}

async fn handle(
    delivery: Delivery<Counted>,
    envelope: Envelope,
    State(limit): State<u32>,
) -> Handled<Vec<Counted>> {
    assert_eq!(delivery.envelope, envelope);
    let by = delivery.event.by;
    if by > limit {
        return Err(Terminal::new("beyond the limit").into());
    }
    if delivery.attempt == 1 && by == 7 {
        return Err(RetryAfter::new(std::time::Duration::from_secs(1), "once more").into());
    }
    let others = envelope.time == Timestamp::from_millis(5)
        && envelope.source == "till"
        && delivery.position.offset == 9;
    Ok(if others { vec![counted(by + 1), counted(by + 2)] } else { Vec::new() })
}

#[tokio::test]
async fn a_handler_gets_what_is_given() {
    let given = || given::handler(handle).state(8);
    given().when(counted(1)).await.then_nothing();
    let delivered = given().source("till").time(Timestamp::from_millis(5)).offset(9).when(counted(1)).await;
    delivered.then([counted(2), counted(3)]);
    given().when(counted(9)).await.then_fails(Outcome::Terminal, "beyond the limit");
    let later = Outcome::RetryAfter(std::time::Duration::from_secs(1));
    given().when(counted(7)).await.then_fails(later, "once more");
    given().attempt(2).when(counted(7)).await.then_nothing();
}

#[tokio::test]
async fn a_handler_that_answers_otherwise_is_shown() {
    let answer = given::handler(handle).state(8).when(counted(1)).await;
    let said = message(|| answer.then([counted(2)]));
    assert!(said.contains("- given.Counted to counts (key a)"), "{said}");
    let answer = given::handler(handle).state(8).when(counted(9)).await;
    assert!(message(|| answer.then_nothing()).contains("beyond the limit"));
    let answer = given::handler(handle).state(8).when(counted(1)).await;
    assert!(message(|| answer.then_fails(Outcome::Retry, "no")).contains("the handler succeeded"));
}
