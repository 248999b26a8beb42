//! Transactional handlers on SQLite, against the same SQL in the same transaction sizes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aqueduct::{
    App, Bus, Database, Event, Handled, Record, Sqlite, Subscription, TopicName, Tx,
    core::{
        RecordBatch,
        cloudevents::Incoming,
        log::{CommitLog, PartitionId, Start},
    },
    memory::MemoryLog,
    rusqlite::{Connection, OpenFlags, params},
    system_environment,
};
use tokio::runtime::Runtime;

use crate::{
    consume::{FINISH, handle, settled},
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    publish::{remark, runtime},
    raw::{PARTITIONS, open_writer},
    sizes,
};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sale (
    number INTEGER PRIMARY KEY, store INTEGER NOT NULL, amount INTEGER NOT NULL, product TEXT NOT NULL);";
const SALE: &str = "INSERT INTO sale (number, store, amount, product) VALUES (?1, ?2, ?3, ?4)";

/// The tables of `aqueduct-sql` that a delivery touches.
const TABLES: &str = "
CREATE TABLE aqueduct_position (
    id INTEGER PRIMARY KEY, subscription TEXT NOT NULL, topic_id BLOB NOT NULL, partition INTEGER NOT NULL,
    generation INTEGER NOT NULL, settled INTEGER, scope INTEGER NOT NULL,
    UNIQUE (subscription, topic_id, partition));
CREATE TABLE aqueduct_mark (
    position INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (position, offset)) WITHOUT ROWID;
CREATE TABLE aqueduct_event_mark (
    scope INTEGER NOT NULL, event BLOB NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (scope, event)) WITHOUT ROWID;
";
const STANDING: &str = "SELECT generation, settled, scope FROM aqueduct_position WHERE id = ?1";
const MARK: &str = "INSERT INTO aqueduct_mark (position, offset) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
const EVENT_MARK: &str =
    "INSERT INTO aqueduct_event_mark (scope, event, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
/// How often a subscription raises its settled offsets.
const RAISE: Duration = Duration::from_millis(250);

async fn on_sold(event: Sold, tx: Tx<Sqlite>) -> Handled {
    tx.prepare_cached(SALE)?.execute(params![event.number, event.store, event.amount, event.product])?;
    FINISH.one();
    Ok(())
}

/// The row of transactional handlers.
#[derive(Debug)]
pub struct Transacting {
    name: &'static str,
    concurrency: usize,
    dir: PathBuf,
    count: u64,
    bar: f64,
    runtime: Runtime,
    log: Arc<MemoryLog>,
    bus: Bus,
    batches: Vec<(i32, Arc<dyn RecordBatch>)>,
    sizes: Vec<usize>,
    runs: u32,
}

impl Transacting {
    /// Handles `count` events in each run.
    ///
    /// # Errors
    /// They cannot be published.
    pub fn new(
        name: &'static str,
        concurrency: usize,
        count: u64,
        bar: f64,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let (runtime, log) = (runtime()?, Arc::new(MemoryLog::new(PARTITIONS)));
        let (bus, batches) = runtime.block_on(async {
            let bus = Bus::open(Arc::clone(&log) as Arc<dyn CommitLog>, system_environment()).await?;
            for batch in pool(count, Keys::Uniform)?.chunks(1_000) {
                bus.publish_all(batch).await?;
            }
            let topic = TopicName::new(Sold::INFO.topic)?;
            let mut batches = Vec::new();
            for (partition, end) in (0..PARTITIONS).zip(log.end_offsets(&topic).await?) {
                let id = PartitionId { topic: topic.clone(), partition };
                let mut reader = log.cursor(&id, Start::Earliest).await?;
                while reader.position() < end {
                    batches.push((partition, reader.read(512).await?));
                }
            }
            anyhow::Ok((bus, batches))
        })?;
        let (sizes, runs) = (Vec::new(), 0);
        Ok(Self {
            name,
            concurrency,
            dir: dir.join(name),
            count,
            bar,
            runtime,
            log,
            bus,
            batches,
            sizes,
            runs,
        })
    }

    fn fresh(&self) -> anyhow::Result<PathBuf> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        fs::create_dir_all(&self.dir)?;
        Ok(self.dir.join("service.db"))
    }

    /// One business row and one event mark for each event, and the sum of the amounts.
    fn verify(&self, path: &Path) -> anyhow::Result<()> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        for table in ["sale", "aqueduct_event_mark"] {
            let sql = format!("SELECT count(*) FROM {table}");
            let rows = connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
            ensure!(u64::try_from(rows)? == self.count, "{table} has {rows} rows for {} events", self.count);
        }
        drop(connection);
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn by_hand(&self, path: &Path) -> anyhow::Result<Cost> {
        ensure!(!self.sizes.is_empty(), "no transaction sizes were told: has our side run?");
        let connection = open_writer(path, 16_000)?;
        connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cache_size = -65536;")?;
        connection.execute_batch(TABLES)?;
        connection.execute_batch(SCHEMA)?;
        for partition in 0..PARTITIONS {
            connection.execute(
                "INSERT INTO aqueduct_position (id, subscription, topic_id, partition, generation, scope)
                 VALUES (?1 + 1, 'bench', x'00', ?1, 1, 1)",
                [partition],
            )?;
        }
        let environment = system_environment();
        let stopwatch = Stopwatch::start();
        let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
        let mut standing = connection.prepare(STANDING)?;
        let mut mark = connection.prepare(MARK)?;
        let mut event_mark = connection.prepare(EVENT_MARK)?;
        let mut sale = connection.prepare(SALE)?;
        let mut raise = connection
            .prepare("UPDATE aqueduct_position SET settled = ?2 WHERE id = ?1 AND generation = 1")?;
        let mut forget =
            connection.prepare("DELETE FROM aqueduct_mark WHERE position = ?1 AND offset < ?2")?;
        let mut commit = connection.prepare("COMMIT")?;
        let mut records = self
            .batches
            .iter()
            .flat_map(|(partition, batch)| Record::all(batch).map(|each| (*partition, each)));
        let mut settled = vec![None; usize::try_from(PARTITIONS)?];
        let mut raised = Instant::now();
        let (mut sizes, mut done) = (self.sizes.iter().cycle(), 0);
        while done < self.count {
            let size = sizes.next().copied().unwrap_or(1);
            begin.execute([])?;
            // Each position is read once in a transaction, as on our side.
            let mut scopes = [None; PARTITIONS as usize];
            for (partition, record) in records.by_ref().take(size) {
                let incoming = Incoming::read(&record, None)?;
                let event: Sold = serde_json::from_slice(incoming.payload.unwrap_or_default())?;
                let (at, position, offset) = (usize::try_from(partition)?, partition + 1, record.offset());
                let scope = match scopes[at] {
                    Some(scope) => scope,
                    None => {
                        let (generation, settled, scope) = standing.query_row([position], |row| {
                            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(2)?))
                        })?;
                        ensure!(generation == 1 && settled.is_none_or(|settled| settled <= offset), "fenced");
                        *scopes[at].insert(scope)
                    }
                };
                mark.execute(params![position, offset])?;
                let id = incoming.id().mark(incoming.source());
                event_mark.execute(params![scope, id, environment.now().as_micros()])?;
                sale.execute(params![event.number, event.store, event.amount, event.product])?;
                settled[at] = Some(offset + 1);
                done += 1;
            }
            commit.execute([])?;
            if raised.elapsed() > RAISE {
                raised = Instant::now();
                begin.execute([])?;
                for (position, settled) in (1..).zip(&mut settled) {
                    if let Some(settled) = settled.take() {
                        raise.execute([position, settled])?;
                        forget.execute([position, settled])?;
                    }
                }
                commit.execute([])?;
            }
        }
        Ok(stopwatch.stop(self.count))
    }
}

impl Row for Transacting {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        format!(
            "an app whose handler inserts one row by Tx<Sqlite>, concurrency {}, memory log, database synced; against \
             decode and the same SQL (positions read once per transaction, marks, row, commit, settled offsets raised every 250 ms) in the \
             same transaction sizes, one thread, no savepoints",
            self.concurrency
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        Some((By::Cpu, self.bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let path = self.fresh()?;
        self.runs += 1;
        let group = format!("bench-{}", self.runs);
        let cost = self.runtime.block_on(async {
            let database = Database::open(&path, SCHEMA).await?;
            let subscription = Subscription::builder(&group).on(on_sold).concurrency(self.concurrency);
            let app =
                App::builder("bench").log(&self.bus).database(&database).subscribe(subscription).build()?;
            drop(sizes::take());
            let cost = handle(app, self.count).await?;
            settled(&*self.log, &group, Sold::INFO.topic).await?;
            database.close().await;
            anyhow::Ok(cost)
        })?;
        self.sizes = sizes::take();
        self.verify(&path)?;
        Ok(cost)
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let path = self.fresh()?;
        let cost = self.by_hand(&path)?;
        self.verify(&path)?;
        Ok(cost)
    }

    fn remark(&self) -> String {
        remark(&self.sizes)
    }
}
