use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = stroe, crate = aqueduct_core)]
struct Misspelt {
    store: u32,
    sku: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = (store, basket), crate = aqueduct_core)]
struct Unknown {
    store: u32,
    sku: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = (misspelt.store, sku), crate = aqueduct_core)]
struct Nested {
    misspelt: Misspelt,
    sku: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = "sku", crate = aqueduct_core)]
struct Quoted {
    sku: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = (), crate = aqueduct_core)]
struct Keyless {}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = (sku, sku), crate = aqueduct_core)]
struct Twice {
    sku: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = 0, crate = aqueduct_core)]
struct Indexed(u32);

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", key = sku, crate = aqueduct_core)]
struct Unnamed(u32);

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct OnField {
    #[event(key)]
    sku: u32,
}

fn main() {}
