use aqueduct_derive::EventSet;

struct Plain {}

#[derive(EventSet)]
#[event(crate = aqueduct_core)]
enum Set {
    Plain(Plain),
}

fn main() {}
