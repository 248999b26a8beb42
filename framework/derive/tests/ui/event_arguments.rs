use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
struct Undeclared {}

#[derive(Serialize, Deserialize, Event)]
#[event(version = 2, crate = aqueduct_core)]
struct Unnamed {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topics = "a", verison = 2, retention = "7d", crate = aqueduct_core)]
struct Misspelt {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", name = "a.B", crate = aqueduct_core)]
struct Twice {}

#[derive(Serialize, Deserialize, Event)]
#[event(name, topic("a"), crate = aqueduct_core)]
struct Valueless {}

fn main() {}
