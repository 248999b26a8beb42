//! Recommendation, run as it is on a log in memory and a database in a temporary folder; the test speaks for the
//! tills and for inventory.
#![allow(clippy::unwrap_used, reason = "a panic is a test's answer")]

mod http;
mod learning;

use aqueduct::Database;
use shop_testing::{Running, Town};

/// Opens recommendation's database and starts it.
async fn start(town: &Town) -> (Running, Database) {
    let database = recommendation::open(town.file("recommendation.db")).await.unwrap();
    (Running::start(recommendation::app(&town.bus, &database)), database)
}
