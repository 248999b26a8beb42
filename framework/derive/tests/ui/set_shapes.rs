use aqueduct_derive::{Event, EventSet};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct A {}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
struct Struct {
    a: A,
}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
enum Empty {}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
enum Variants {
    Unit,
    Two(A, A),
    Named { a: A },
}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
enum Generic<T> {
    A(T),
}

#[derive(EventSet)]
#[event(name = "a", crate = aqueduct_core)]
enum SameType {
    A(A),
    #[event(ignore)]
    B(A),
}

fn main() {}
