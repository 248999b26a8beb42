use aqueduct_core::IntoDraft;
use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct Happened {}

struct Plain;

fn publish(_: impl IntoDraft) {}

fn main() {
    publish(&Happened {});
    publish(Happened {});
    publish(&Plain);
}
