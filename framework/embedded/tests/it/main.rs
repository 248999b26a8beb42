//! The embedded log, from the outside: what it keeps is also looked at with SQLite itself.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken promise is a panic, also in what the tests share"
)]

mod append;
mod contract;
mod full;
mod groups;
mod maintenance;
mod member;
mod open;
mod processes;
mod tools;
mod went_back;
