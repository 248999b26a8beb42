//! The log itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, mpsc},
    time::Duration,
};

use aqueduct_core::{
    BoxFuture, LogError, LogErrorKind, TopicName,
    log::{
        Capabilities, CommitLog, Consumer, Offset, PartitionId, PartitionReader, Producer, Settled, Start,
        TopicInfo, TopicSpec, TransactionalProducer,
    },
    name,
};
use rusqlite::{OptionalExtension, params};
use tokio::sync::oneshot;

use crate::{
    command::Command,
    consumer::EmbeddedConsumer,
    error::closed,
    file::{self, Place, beside, holder, unreachable},
    highwater::{self, HighWater},
    holds::Holds,
    maintenance::Maintenance,
    options::{EmbeddedOptions, configuration},
    producer::{EmbeddedProducer, EmbeddedTransactions},
    reader::EmbeddedReader,
    reading, registry, schema,
    shared::{Handle, LostRange, Shared, Topic},
    turn::Turn,
    writer::Writer,
};

/// How long opening waits for another process that is writing.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// A commit log on one SQLite file.
#[derive(Debug)]
pub struct EmbeddedLog {
    handle: Arc<Handle>,
}

impl EmbeddedLog {
    /// Opens the log, or makes it. Opening one file twice in a process gives the same log: closing it closes it for
    /// all.
    ///
    /// # Errors
    /// `Configuration`: an option is out of range, the directory is missing, the file system or the file is not
    /// fit, or the file is open with other options. `Unreachable`: the file cannot be opened or written, or another
    /// process does not let go of it. `Format`: the file is another program's or of a newer version. `Corrupt`,
    /// `Storage`: what it says.
    pub async fn open(options: EmbeddedOptions) -> Result<Arc<Self>, LogError> {
        options.check()?;
        let (reply, answer) = oneshot::channel();
        let path = options.path.clone();
        std::thread::Builder::new()
            .name("aqueduct-writer".to_owned())
            .spawn(move || {
                let opened = file::place(&options.path).and_then(|place| {
                    registry::open(&place, &options, || make(place.clone(), options.clone()))
                });
                match opened {
                    Err(error) => drop(reply.send(Err(error))),
                    Ok((handle, made)) => {
                        // If the caller went away, the handle is dropped here, and the writer ends at once.
                        drop(reply.send(Ok(handle)));
                        if let Some((writer, commands)) = made {
                            let _end = End(Arc::clone(&writer.shared));
                            writer.run(&commands);
                        }
                    }
                }
            })
            .map_err(|error| unreachable(&path, error))?;
        let handle = answer.await.map_err(|_| closed())??;
        Ok(Arc::new(Self { handle }))
    }

    /// Offsets that were acknowledged and are gone: the file was replaced by an older copy, cut short, or lost its
    /// write-ahead log. They are kept, and no offset among them is given again.
    #[must_use]
    pub fn lost_ranges(&self) -> Vec<LostRange> {
        self.handle.shared.lost()
    }
}

/// Whatever ends the writer's thread, those that wait for it are told.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
    }
}

type Made = (Arc<Handle>, (Writer, mpsc::Receiver<Command>));

fn make(place: Place, options: EmbeddedOptions) -> Result<Made, LogError> {
    let path = place.path.clone();
    let io = |error| unreachable(&path, error);
    let turn = Turn::new(&path).map_err(io)?;
    // The high water first: a live process may commit and note more while we read the database.
    let high_water = highwater::read_all(&path).map_err(io)?;
    let shared = Arc::new(Shared::new(place, options));
    let guard = open_turn(&shared)?;
    let mut connection = schema::open_writer(&path, shared.options.max_bytes)?;
    schema::lift(&mut connection, &high_water)
        .map_err(|error| shared.error("cannot lift the offsets", error))?;
    drop(guard);
    // The write-ahead log exists now, and stays while the log is open. SQLite syncs its name too, and ignores a failure.
    file::sync_directory(&path)?;
    let own_high_water = HighWater::take(&path).map_err(io)?;
    let reading = schema::open_reader(&path)?;
    for name in
        schema::topic_names(&reading).map_err(|error| shared.error("cannot read the topics", error))?
    {
        let name = TopicName::new(&name)?;
        let stored = schema::load_topic(&reading, &name)
            .map_err(|error| shared.error("cannot read a topic", error))?;
        if let Some(stored) = stored {
            shared.adopt(Arc::new(Topic::new(stored)));
        }
    }
    report_lost(&shared, &reading)?;
    report_unknown(&shared, &high_water);
    let reader = reading::start(&shared, reading).map_err(io)?;
    let (writer, commands) = mpsc::channel();
    let handle = Handle { shared: Arc::clone(&shared), writer, reader: reader.jobs.clone() };
    let writer = Writer {
        shared,
        connection,
        turn: Arc::new(turn),
        own_high_water,
        high_water,
        reader,
        holds: Holds::default(),
        poison: None,
        spread: 0,
        unchecked_bytes: 0,
        maintenance: Maintenance::new(),
    };
    Ok((Arc::new(handle), (writer, commands)))
}

/// Takes the write lock for opening, or says who holds it. A thread waits in the fair queue; if it is given up, it
/// ends when the holder lets go.
fn open_turn(shared: &Arc<Shared>) -> Result<mpsc::Sender<()>, LogError> {
    let path = &shared.place.path;
    let (taken, wait) = mpsc::channel();
    let (release, hold) = mpsc::channel::<()>();
    let turn = Turn::new(path).map_err(|error| unreachable(path, error))?;
    let waiting = Arc::clone(shared);
    std::thread::Builder::new()
        .name("aqueduct-open".to_owned())
        .spawn(move || match turn.take(&waiting) {
            Err(error) => drop(taken.send(Err(error))),
            Ok(_turned) => {
                drop(taken.send(Ok(())));
                // Held until the sender is dropped: it never sends.
                hold.iter().for_each(drop);
            }
        })
        .map_err(|error| unreachable(path, error))?;
    match wait.recv_timeout(OPEN_WAIT) {
        Ok(Ok(())) => Ok(release),
        Ok(Err(error)) => Err(unreachable(path, error)),
        Err(_) => Err(LogError::new(
            LogErrorKind::Unreachable,
            format!(
                "{}: {} has held the log's write lock for {} s; is it stopped?",
                path.display(),
                holder(&beside(path, ".writer")),
                OPEN_WAIT.as_secs()
            ),
        )),
    }
}

/// A partition that the high water knows and the database does not: its topic was lost with it. Its offsets are
/// reported by name when a topic takes its place, and are not given again.
fn report_unknown(shared: &Shared, high_water: &HashMap<i64, Offset>) {
    let known: HashSet<i64> = shared
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| partition.id).collect::<Vec<_>>())
        .collect();
    let unknown = high_water.keys().filter(|id| !known.contains(id)).count();
    if unknown > 0 {
        tracing::error!(
            log = %shared.place.path.display(),
            partitions = unknown,
            "the log went back to before these partitions were made: topics were lost"
        );
    }
}

fn report_lost(shared: &Shared, connection: &rusqlite::Connection) -> Result<(), LogError> {
    let lost =
        schema::lost(connection).map_err(|error| shared.error("cannot read the lost ranges", error))?;
    let lost: Vec<_> = lost
        .into_iter()
        .map(|(id, partition, first, end)| (id, LostRange { partition, offsets: first..end }))
        .collect();
    shared.add_lost(lost);
    Ok(())
}

impl CommitLog for EmbeddedLog {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "embedded",
            durable: true,
            shared_groups: true,
            max_record_bytes: self.handle.shared.options.max_record_bytes,
        }
    }

    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicInfo, LogError>> {
        Box::pin(async move { self.handle.command(|reply| Command::EnsureTopic { spec, reply }).await? })
    }

    fn describe_topic<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        Box::pin(async move { Ok(self.handle.find_topic(topic).await?.map(|topic| topic.info.clone())) })
    }

    fn add_partitions<'a>(
        &'a self,
        topic: &'a TopicName,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async move {
            let count = self.handle.require_topic(topic).await?.partitions.len();
            if usize::try_from(partitions).is_ok_and(|wanted| wanted <= count) {
                return Ok(());
            }
            let message =
                format!("topic {topic} has {count} partitions, and topics of an embedded log do not grow");
            Err(LogError::new(LogErrorKind::Configuration, message))
        })
    }

    fn producer(&self) -> BoxFuture<'_, Result<Arc<dyn Producer>, LogError>> {
        Box::pin(async {
            self.handle.shared.check()?;
            let producer: Arc<dyn Producer> = Arc::new(EmbeddedProducer { handle: Arc::clone(&self.handle) });
            Ok(producer)
        })
    }

    fn transactional_producer<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn TransactionalProducer>, LogError>> {
        Box::pin(async move {
            name::check("producer", id)?;
            let id = id.to_owned();
            let epoch =
                self.handle.command(|reply| Command::OpenProducer { id: id.clone(), reply }).await??;
            let producer: Box<dyn TransactionalProducer> =
                Box::new(EmbeddedTransactions { handle: Arc::clone(&self.handle), id, epoch });
            Ok(producer)
        })
    }

    fn consumer<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [TopicName],
    ) -> BoxFuture<'a, Result<Arc<dyn Consumer>, LogError>> {
        Box::pin(async move {
            name::check("group", group)?;
            if topics.is_empty() {
                return Err(configuration(format!("group {group} names no topic to read")));
            }
            let mut found = Vec::with_capacity(topics.len());
            for topic in topics {
                found.push(self.handle.require_topic(topic).await?);
            }
            let consumer = EmbeddedConsumer::join(Arc::clone(&self.handle), group, &found).await?;
            let consumer: Arc<dyn Consumer> = Arc::new(consumer);
            Ok(consumer)
        })
    }

    fn cursor<'a>(
        &'a self,
        partition: &'a PartitionId,
        start: Start,
    ) -> BoxFuture<'a, Result<Box<dyn PartitionReader>, LogError>> {
        Box::pin(async move {
            let reader = EmbeddedReader::open(Arc::clone(&self.handle), partition, start).await?;
            let reader: Box<dyn PartitionReader> = Box::new(reader);
            Ok(reader)
        })
    }

    fn end_offsets<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, Result<Vec<Offset>, LogError>> {
        Box::pin(async move {
            let topic = self.handle.require_topic(topic).await?;
            let shared = Arc::clone(&self.handle.shared);
            self.handle
                .query(move |connection| {
                    topic
                        .partitions
                        .iter()
                        .map(|partition| reading::range(connection, partition.id).map(|(_, end)| end))
                        .collect::<rusqlite::Result<_>>()
                        .map_err(|error| shared.error("cannot read the end offsets", error))
                })
                .await
        })
    }

    fn settled_offsets<'a>(
        &'a self,
        group: &'a str,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<Vec<Option<Settled>>, LogError>> {
        Box::pin(async move {
            name::check("group", group)?;
            let topic = self.handle.require_topic(topic).await?;
            let (shared, group) = (Arc::clone(&self.handle.shared), group.to_owned());
            self.handle
                .query(move |connection| {
                    let read = || -> rusqlite::Result<Vec<Option<Settled>>> {
                        let mut statement = connection.prepare_cached(
                            "SELECT settled, metadata FROM group_partition
                             WHERE group_name = ? AND partition_id = ? AND settled IS NOT NULL",
                        )?;
                        let mut settled = Vec::with_capacity(topic.partitions.len());
                        for partition in &topic.partitions {
                            let row = statement.query_row(params![group, partition.id], |row| {
                                Ok(Settled { offset: row.get(0)?, metadata: row.get(1)? })
                            });
                            settled.push(row.optional()?);
                        }
                        Ok(settled)
                    };
                    read().map_err(|error| shared.error("cannot read settled offsets", error))
                })
                .await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { self.handle.command(|reply| Command::Close { reply }).await? })
    }
}
