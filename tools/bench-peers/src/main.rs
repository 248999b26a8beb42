//! `bench-peers`: RustStream on Apache Kafka, with the work that `bench-kafka` gives to our side; what `cargo xtask bench
//! kafka --peers` starts once for each run. It prints its time and CPU time as a line of JSON.

mod consume;
mod cost;
mod event;
mod publish;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Handle the records of a topic, and end.
    Consume(consume::Options),
    /// Publish the events of standard input, a line of JSON each, again and again.
    Publish(publish::Options),
}

/// Where the records are.
#[derive(Debug, Args)]
struct Place {
    /// A broker: HOST:PORT.
    #[arg(long)]
    brokers: String,
    /// The topic, by its name in the cluster.
    #[arg(long)]
    topic: String,
    /// How many records.
    #[arg(long)]
    count: u64,
    /// A property of librdkafka, NAME=VALUE, as the other side has it; may be given more than once.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("a property is NAME=VALUE".to_owned()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // What the framework warns of: a record that it drops, a client that fails.
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let cost = match options.work {
        Work::Consume(options) => consume::run(&options).await.context("cannot consume")?,
        Work::Publish(options) => publish::run(options).await.context("cannot publish")?,
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
