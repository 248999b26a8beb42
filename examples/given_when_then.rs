//! An aggregate and a handler, given, when, then: what `main` does here stands in `#[test]`s of a service.

use aqueduct::{core::handler::Outcome, prelude::*};
use aqueduct_testkit::given;

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "shelf.Taken", topic = "shelves", key = sku)]
struct Taken {
    sku: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize)]
struct Shelf {
    left: u32,
}

#[derive(Debug, PartialEq)]
struct Empty;

impl Aggregate for Shelf {
    const STATE_VERSION: u32 = 1;
    type Command = Taken;
    type Event = Taken;
    type Refusal = Empty;

    fn decide(&self, take: Taken) -> Result<Vec<Taken>, Empty> {
        if take.quantity > self.left { Err(Empty) } else { Ok(vec![take]) }
    }

    fn evolve(&mut self, event: &Taken) {
        self.left -= event.quantity;
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "shelf.RestockWanted", topic = "restock", key = sku)]
struct RestockWanted {
    sku: String,
}

async fn on_taken(taken: Delivery<Taken>, State(most): State<u32>) -> Handled<Option<RestockWanted>> {
    if taken.event.quantity > most {
        return Err(Terminal::new("nobody takes so many").into());
    }
    Ok((taken.event.quantity > 5).then_some(RestockWanted { sku: taken.event.sku }))
}

#[tokio::main]
async fn main() {
    let take = |quantity| Taken { sku: "tea".into(), quantity };
    given::aggregate(Shelf { left: 10 })
        .events([take(3)])
        .when(take(7))
        .then([take(7)])
        .when(take(1))
        .then_refused(&Empty);

    given::handler(on_taken).state(100).when(take(6)).await.then([RestockWanted { sku: "tea".into() }]);
    given::handler(on_taken).state(100).attempt(3).when(take(1)).await.then_nothing();
    let outcome = given::handler(on_taken).state(100).when(take(101)).await;
    outcome.then_fails(Outcome::Terminal, "nobody takes so many");
    println!("as it should be");
}
