//! The inspector: reads a log through the framework, as any service would, and tells what it was given.

use std::path::PathBuf;

use aqueduct::{
    TopicName,
    core::{
        Record,
        log::{PartitionId, Start, TopicSpec},
    },
};
use checker::{Observation, Place, crc32};
use clap::Args;

use crate::{event::MOVES, sink::Sink};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The log's URL.
    #[arg(long)]
    log: String,
    /// The file of observations.
    #[arg(long)]
    out: PathBuf,
}

/// Reads all. What the log refuses to read is told as gone: it was reported.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let sink = Sink::file(&options.out, "inspector")?;
    let bus = aqueduct::connect(&options.log).await?;
    let topic = TopicName::new(MOVES)?;
    // As a subscription does at its start.
    bus.log().ensure_topic(TopicSpec::new(topic.clone())).await?;
    let ends = bus.log().end_offsets(&topic).await?;
    for (number, end) in (0..).zip(ends) {
        let id = PartitionId { topic: topic.clone(), partition: number };
        let mut reader = bus.log().cursor(&id, Start::Earliest).await?;
        let shard = crate::spy::shard(&id);
        while reader.position() < end {
            let first = reader.position();
            match reader.read(1_000).await {
                Err(error) => {
                    eprintln!("{id} from {first} on: {error}");
                    sink.see(Observation::Gone { shard: shard.clone(), first, end: i64::MAX });
                    break;
                }
                Ok(batch) => {
                    for record in Record::all(&batch) {
                        sink.see(seen(&record));
                    }
                }
            }
        }
    }
    bus.log().close().await?;
    Ok(())
}

fn seen(record: &Record) -> Observation {
    let mut id = None;
    record.visit_headers(&mut |header| {
        if header.name == b"ce_id" {
            id = header.value.map(|value| String::from_utf8_lossy(value).into_owned());
        }
    });
    Observation::Record {
        place: Place::new(record.topic().as_str(), record.partition(), record.offset()),
        id,
        key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()),
        crc: crc32(record.value().unwrap_or_default()),
    }
}
