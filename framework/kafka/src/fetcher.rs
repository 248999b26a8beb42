//! Clients that read partitions, without a group: as few as there are readers of one partition at a time, shared by all
//! readers of a log. What a group does, such as a rebalance, stops none of them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
};

use aqueduct_core::{
    LogError, LogErrorKind,
    log::{Offset, PartitionId},
};
use rdkafka::{ClientConfig, consumer::BaseConsumer};

use crate::{
    context::Context,
    error::{client, error},
    native::{Native, Stream, Topic},
    shared::serve,
};

/// The reading clients of a log.
pub(crate) struct Fetchers {
    config: ClientConfig,
    all: Arc<Mutex<Vec<Fetcher>>>,
    /// Where readers that end are stopped, which waits for the client.
    ending: mpsc::Sender<Ended>,
}

/// A reader that ended, of a client and a partition.
type Ended = (Option<Stream>, Weak<BaseConsumer<Context>>, PartitionId);

struct Fetcher {
    client: Arc<BaseConsumer<Context>>,
    reading: HashSet<PartitionId>,
}

/// A stream that stops when it is dropped.
pub(crate) struct Fetching {
    stream: Option<Stream>,
    client: Arc<BaseConsumer<Context>>,
    partition: PartitionId,
    ending: mpsc::Sender<Ended>,
}

impl Fetchers {
    pub(crate) fn new(config: ClientConfig) -> Result<Self, LogError> {
        let all = Arc::<Mutex<Vec<Fetcher>>>::default();
        let (ending, ended) = mpsc::channel::<Ended>();
        let of = Arc::clone(&all);
        let stopping = move || {
            while let Ok((stream, client, partition)) = ended.recv() {
                if let Some(stream) = stream {
                    stream.stop();
                }
                let spare =
                    release(&mut of.lock().unwrap_or_else(PoisonError::into_inner), &client, &partition);
                // Ending a client waits for its threads: outside the lock.
                drop(spare);
            }
        };
        let spawned = thread::Builder::new().name("kafka-stopping".to_owned()).spawn(stopping);
        spawned.map_err(|error| {
            LogError::with_source(LogErrorKind::Unreachable, "cannot start a thread", error)
        })?;
        Ok(Self { config, all, ending })
    }

    /// Starts reading a partition, which is called `wire` in the cluster. May wait for a new client.
    pub(crate) fn start(
        &self,
        partition: &PartitionId,
        wire: &str,
        offset: Offset,
    ) -> Result<Fetching, LogError> {
        let tried = || format!("cannot read {partition}");
        let client = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            match all.iter_mut().find(|fetcher| !fetcher.reading.contains(partition)) {
                Some(fetcher) => {
                    fetcher.reading.insert(partition.clone());
                    Arc::clone(&fetcher.client)
                }
                None => {
                    let made = self.config.create_with_context(Context::default());
                    let made = Arc::new(made.map_err(|error| client(&tried(), error))?);
                    serve("kafka-reading", &made)?;
                    let reading = HashSet::from([partition.clone()]);
                    all.push(Fetcher { client: Arc::clone(&made), reading });
                    made
                }
            }
        };
        let native: Arc<dyn Native> = Arc::<BaseConsumer<Context>>::clone(&client);
        let started = Topic::new(native, wire)
            .and_then(|topic| Stream::start(topic, partition.partition, offset))
            .map_err(|code| error(&tried(), code, &code.to_string()));
        let ending = self.ending.clone();
        match started {
            Ok(stream) => Ok(Fetching { stream: Some(stream), client, partition: partition.clone(), ending }),
            Err(failed) => {
                let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
                let spare = release(&mut all, &Arc::downgrade(&client), partition);
                drop(all);
                drop(spare);
                Err(failed)
            }
        }
    }
}

/// Notes that a partition is not read any more, and gives the client to be dropped where another has nothing to do too.
fn release(
    all: &mut Vec<Fetcher>,
    client: &Weak<BaseConsumer<Context>>,
    partition: &PartitionId,
) -> Option<Fetcher> {
    let at = all.iter().position(|fetcher| std::ptr::eq(Arc::as_ptr(&fetcher.client), client.as_ptr()))?;
    all[at].reading.remove(partition);
    let idle = all.iter().filter(|fetcher| fetcher.reading.is_empty()).count();
    (all[at].reading.is_empty() && idle > 1).then(|| all.swap_remove(at))
}

impl Fetching {
    /// The stream, as long as it was not stopped.
    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// Reads from another offset on. Waits for the client.
    pub(crate) fn restart(&mut self, wire: &str, offset: Offset) -> Result<(), LogError> {
        if let Some(stream) = self.stream.take() {
            stream.stop();
        }
        let native: Arc<dyn Native> = Arc::<BaseConsumer<Context>>::clone(&self.client);
        let started = Topic::new(native, wire)
            .and_then(|topic| Stream::start(topic, self.partition.partition, offset))
            .map_err(|code| error(&format!("cannot read {}", self.partition), code, &code.to_string()))?;
        self.stream = Some(started);
        Ok(())
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // Fails only where the log is gone, and its clients with it.
        let _ = self.ending.send((self.stream.take(), Arc::downgrade(&self.client), self.partition.clone()));
    }
}
