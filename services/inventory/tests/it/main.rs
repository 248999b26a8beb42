//! Inventory, run as it is on a log in memory and a database in a temporary folder.
#![allow(clippy::unwrap_used, reason = "a panic is a test's answer")]

mod conversation;
mod http;
mod selling;

use aqueduct::Database;
use shop_testing::{Running, Town};

/// Opens inventory's database and starts it.
async fn start(town: &Town) -> (Running, Database) {
    let database = inventory::open(town.file("inventory.db")).await.unwrap();
    (Running::start(inventory::app(&town.bus, &database)), database)
}
