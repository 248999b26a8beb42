use aqueduct_derive::Event;
use serde::Serialize;

#[derive(Serialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct WithoutDeserialize {}

fn main() {}
