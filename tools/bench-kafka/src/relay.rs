//! The relay's backlog: staged events on their way from SQLite to the log, against select, raw producer and cursor.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use aqueduct::{
    Database, Event,
    core::{
        Headers,
        effects::{Effects, Relay, RelayMode},
        log::CommitLog,
        record::HeadersBuilder,
    },
    rusqlite::{Connection, params},
};
use bench::{
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    publish::runtime,
    raw::PARTITIONS,
};
use tokio::sync::oneshot;

use crate::{
    cluster::Cluster,
    raw::{Encoded, FIXED, wrapped},
};

/// Rows of one select.
const ROWS: usize = 1_000;

/// The row of the relay.
#[derive(Debug)]
pub(crate) struct Relaying {
    name: &'static str,
    mode: RelayMode,
    count: u64,
    bar: Option<f64>,
    cluster: Arc<Cluster>,
    dir: PathBuf,
    pool: Vec<Sold>,
}

impl Relaying {
    pub(crate) fn new(
        name: &'static str,
        mode: RelayMode,
        count: u64,
        bar: Option<f64>,
        cluster: &Arc<Cluster>,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let (cluster, dir) = (Arc::clone(cluster), dir.join("relay"));
        Ok(Self { name, mode, count, bar, cluster, dir, pool: pool(20_000, Keys::Zipf)? })
    }

    /// A new database with the backlog in its outbox.
    async fn staged(&self) -> anyhow::Result<PathBuf> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.join("service.db");
        Database::open(&path, "").await?.close().await;
        let mut connection = Connection::open(&path)?;
        let transaction = connection.transaction()?;
        let (mut encoded, environment) = (Encoded::new(), &self.cluster.environment);
        {
            let mut insert = transaction.prepare(
                "INSERT INTO aqueduct_outbox (event_id, event_type, topic, key, headers, payload, timestamp, at)
                 VALUES (randomblob(16), 'bench.Sold', ?1, ?2, ?3, ?4, ?5, ?5)",
            )?;
            for event in self.pool.iter().cycle().take(usize::try_from(self.count)?) {
                encoded.set(event, environment)?;
                let mut headers = HeadersBuilder::new();
                for (name, value) in FIXED {
                    headers.push(name.as_bytes(), Some(value.as_bytes()));
                }
                headers.push(b"ce_id", Some(&encoded.id));
                insert.execute(params![
                    Sold::INFO.topic,
                    event.account.as_bytes(),
                    &**headers.build().as_block(),
                    encoded.value,
                    encoded.timestamp * 1_000,
                ])?;
            }
        }
        transaction.commit()?;
        Ok(path)
    }

    fn verify_and_remove(&self, prefix: &str) -> anyhow::Result<()> {
        self.cluster.count_committed(prefix, self.count)?;
        runtime()?.block_on(self.cluster.remove(prefix))?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

impl Row for Relaying {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        let how = match self.mode {
            RelayMode::ExactlyOnce => "exactly once, by transactions with the cursor in them",
            RelayMode::AtLeastOnce => "at least once",
        };
        format!(
            "a backlog of staged events to Kafka, {how}; against select, ThreadedProducer and cursor, at least once"
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        self.bar.map(|bar| (By::Cpu, bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let prefix = self.cluster.prefix();
        let cost = runtime()?.block_on(async {
            let path = self.staged().await?;
            let (log, _) = self.cluster.open(&prefix).await?;
            let database = Database::open(&path, "").await?;
            let stopwatch = Stopwatch::start();
            let (stop, stopped) = oneshot::channel::<()>();
            let relay = tokio::spawn(database.relay(Relay {
                outbox: "bench".to_owned(),
                mode: self.mode,
                log: Arc::clone(&log) as _,
                environment: self.cluster.environment.clone(),
                report: Arc::new(|problem| {
                    if let Some(problem) = problem {
                        eprintln!("the relay cannot go on now: {problem}");
                    }
                }),
                stop: Box::pin(async move {
                    // Dropped or told: both mean the end.
                    let _ = stopped.await;
                }),
            }));
            // One row is looked at: counting what waits would cost more than moving it.
            let look = Connection::open(&path)?;
            let cursor = || {
                look.query_row("SELECT max(cursor) FROM aqueduct_relay", [], |row| {
                    row.get::<_, Option<i64>>(0)
                })
            };
            while cursor()? != Some(self.count.cast_signed()) {
                ensure!(!relay.is_finished(), "the relay ended before the backlog did");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let cost = stopwatch.stop(self.count);
            drop(stop);
            relay.await??;
            database.close().await;
            log.close().await?;
            anyhow::Ok(cost)
        })?;
        self.verify_and_remove(&prefix)?;
        Ok(cost)
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let prefix = self.cluster.prefix();
        let path = runtime()?.block_on(async {
            self.cluster.open(&prefix).await?.0.close().await?;
            self.staged().await
        })?;
        let (producer, topic) = (wrapped::Counting::new(&self.cluster.producing())?, Cluster::topic(&prefix));
        let connection = Connection::open(&path)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        connection.execute_batch("CREATE TABLE cursor (at INTEGER); INSERT INTO cursor VALUES (0);")?;
        let stopwatch = Stopwatch::start();
        let mut select = connection.prepare(
            "SELECT id, key, headers, payload, timestamp FROM aqueduct_outbox WHERE id > ?1 ORDER BY id",
        )?;
        let mut keep = connection.prepare("UPDATE cursor SET at = ?1")?;
        let (mut cursor, mut sent) = (0_i64, 0);
        loop {
            let mut rows = select.query([cursor])?;
            let mut taken = 0;
            while taken < ROWS
                && let Some(row) = rows.next()?
            {
                cursor = row.get(0)?;
                let headers = Headers::from_block(row.get_ref(2)?.as_blob()?.to_vec().into());
                let (key, value) = (row.get_ref(1)?.as_blob()?, row.get_ref(3)?.as_blob()?);
                producer.send(&topic, key, value, row.get::<_, i64>(4)? / 1_000, &headers)?;
                taken += 1;
            }
            drop(rows);
            if taken == 0 {
                break;
            }
            sent += taken as u64;
            producer.all(sent)?;
            keep.execute([cursor])?;
        }
        let cost = stopwatch.stop(self.count);
        self.verify_and_remove(&prefix)?;
        Ok(cost)
    }

    fn remark(&self) -> String {
        format!("{PARTITIONS} partitions, {ROWS} rows at once; verified by a read-committed reader")
    }
}
