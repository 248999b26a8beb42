use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct V1 {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = 3, upcasts = V1, crate = aqueduct_core)]
struct V3 {}

impl From<V1> for V3 {
    fn from(_: V1) -> Self {
        Self {}
    }
}

fn main() {}
