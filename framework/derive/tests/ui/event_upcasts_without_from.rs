use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct V1 {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = 2, upcasts = V1, crate = aqueduct_core)]
struct V2 {}

#[derive(Serialize, Deserialize)]
struct Plain {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.P", topic = "a", version = 2, upcasts = Plain, crate = aqueduct_core)]
struct P2 {}

impl From<Plain> for P2 {
    fn from(_: Plain) -> Self {
        Self {}
    }
}

fn main() {}
