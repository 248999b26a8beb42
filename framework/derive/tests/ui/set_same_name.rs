use aqueduct_derive::{Event, EventSet};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct A {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", version = 2, topic = "a", crate = aqueduct_core)]
struct A2 {}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
enum Set {
    A(A),
    Newer(A2),
}

fn main() {}
