use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Money {
    cents: u64,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "till.Paid", topic = "till", key = amount, crate = aqueduct_core)]
struct Paid {
    amount: Money,
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "till.Returned", topic = "till", key = (basket, amount), crate = aqueduct_core)]
struct Returned {
    basket: u64,
    amount: Option<u64>,
}

fn main() {}
