use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.B", topic = "a", crate = aqueduct_core)]
struct V1 {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = 2, upcasts = V1, crate = aqueduct_core)]
struct V2 {}

impl From<V1> for V2 {
    fn from(_: V1) -> Self {
        Self {}
    }
}

fn main() {}
