use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "../x", topic = "a topic", crate = aqueduct_core)]
struct Paths {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "", topic = a, crate = aqueduct_core)]
struct Empty {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A.v2", topic = "a", crate = aqueduct_core)]
struct VersionInName {}

fn main() {}
