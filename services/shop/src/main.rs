//! The sample shop in one process: the till feed, inventory and recommendation, on one commit log.
//!
//! - `options`: the command line
//! - `sales`: the recorded sales, basket by basket
//! - `feed`: publishes them, from where the log ends
//! - `shop`: starts it all, waits for the end, drains
//! - `progress`: the line that shows how it goes
//! - `report`: what came of it, as JSON

mod feed;
mod options;
mod progress;
mod report;
mod sales;
mod shop;

use aqueduct::{Config, logs};
use clap::Parser;

use crate::options::Options;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let config = Config::load(options.config.as_deref(), std::env::vars_os())?;
    logs::init(config.logs)?;
    shop::run(options, config).await
}
