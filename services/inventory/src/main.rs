//! Inventory as a process of its own.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use aqueduct::{Config, logs, shutdown_signal};
use clap::Parser;
use tokio::net::TcpListener;

/// Keeps the stock of every store and product from what the tills say. Ctrl-C drains and ends.
///
/// Other settings come from the environment, such as `AQUEDUCT_LOGS_FORMAT=json`.
#[derive(Debug, Parser)]
struct Options {
    /// The commit log, such as `embedded:./log.db`.
    #[arg(long, env = "AQUEDUCT_LOG_URL", value_name = "URL")]
    log: String,
    /// The database file of this service; it is made if it is not there.
    #[arg(long, env = "INVENTORY_DATABASE", value_name = "FILE", default_value = "inventory.db")]
    database: PathBuf,
    /// Where the HTTP API listens.
    #[arg(long, env = "AQUEDUCT_HTTP_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let config = Config::load(None, std::env::vars_os())?;
    logs::init(config.logs)?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen there", options.listen))?;
    let bus = aqueduct::connect(&options.log).await.with_context(|| format!("--log {}", options.log))?;
    let database = inventory::open(&options.database).await.context("--database")?;
    let app = inventory::app(&bus, &database).config(config).http(listener).build()?;
    tracing::info!(listen = %options.listen, log = options.log, "inventory runs");
    app.run(shutdown_signal()).await?;
    database.close().await;
    bus.log().close().await?;
    Ok(())
}
