use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = 0, crate = aqueduct_core)]
struct Zero {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = "2", crate = aqueduct_core)]
struct Text {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", version = 5000000000, crate = aqueduct_core)]
struct Large {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", upcasts = Zero, crate = aqueduct_core)]
struct First {}

fn main() {}
