//! Transactions of 1,000 records, against librdkafka's own.

use std::sync::Arc;

use aqueduct::{
    Event, Timestamp, TopicName,
    core::{NewRecord, log::CommitLog, record::HeadersBuilder},
};
use bench::{
    events::{Keys, Sold, pool},
    harness::{By, Row},
    measure::{Cost, Stopwatch},
    publish::runtime,
    raw::PARTITIONS,
};

use crate::{
    cluster::Cluster,
    raw::{Encoded, FIXED, wrapped},
};

/// Records of one transaction.
pub(crate) const SIZE: usize = 1_000;
/// Transactions whose records are used again and again.
const POOL: u64 = 20;

/// The row of transactions.
#[derive(Debug)]
pub(crate) struct Transacting {
    name: &'static str,
    count: u64,
    bar: f64,
    cluster: Arc<Cluster>,
    pool: Vec<NewRecord>,
}

impl Transacting {
    pub(crate) fn new(
        name: &'static str,
        count: u64,
        bar: f64,
        cluster: &Arc<Cluster>,
    ) -> anyhow::Result<Self> {
        let topic = TopicName::new(Sold::INFO.topic)?;
        let mut encoded = Encoded::new();
        let records = pool(POOL * SIZE as u64, Keys::Zipf)?.into_iter().map(|event| {
            encoded.set(&event, &cluster.environment)?;
            let mut headers = HeadersBuilder::new();
            for (name, value) in FIXED {
                headers.push(name.as_bytes(), Some(value.as_bytes()));
            }
            headers.push(b"ce_id", Some(&encoded.id));
            anyhow::Ok(NewRecord {
                topic: topic.clone(),
                partition: None,
                key: Some(event.account.into_bytes().into()),
                headers: headers.build(),
                value: Some(encoded.value.clone().into()),
                timestamp: Timestamp::from_micros(encoded.timestamp * 1_000),
            })
        });
        Ok(Self { name, count, bar, cluster: Arc::clone(cluster), pool: records.collect::<Result<_, _>>()? })
    }

    fn transactions(&self) -> anyhow::Result<impl Iterator<Item = &[NewRecord]>> {
        let count = usize::try_from(self.count)? / SIZE;
        Ok(self.pool.chunks(SIZE).cycle().take(count))
    }

    /// A transaction ends with a marker in each partition that it wrote to, so the ends say less than the reader.
    fn verify_and_remove(&self, prefix: &str) -> anyhow::Result<()> {
        self.cluster.count_committed(prefix, self.count)?;
        runtime()?.block_on(self.cluster.remove(prefix))
    }
}

impl Row for Transacting {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        format!(
            "transactions of {SIZE} records, encoded before; against BaseProducer's begin, send and commit of the same records"
        )
    }

    fn bar(&self) -> Option<(By, f64)> {
        Some((By::Cpu, self.bar))
    }

    fn ours(&mut self) -> anyhow::Result<Cost> {
        let prefix = self.cluster.prefix();
        let cost = runtime()?.block_on(async {
            let (log, _) = self.cluster.open(&prefix).await?;
            let mut producer = log.transactional_producer("bench").await?;
            let stopwatch = Stopwatch::start();
            for records in self.transactions()? {
                producer.commit(records.to_vec(), None).await?;
            }
            let cost = stopwatch.stop(self.count);
            drop(producer);
            log.close().await?;
            anyhow::Ok(cost)
        })?;
        self.verify_and_remove(&prefix)?;
        Ok(cost)
    }

    fn raw(&mut self) -> anyhow::Result<Cost> {
        let prefix = self.cluster.prefix();
        runtime()?.block_on(async {
            self.cluster.open(&prefix).await?.0.close().await.map_err(anyhow::Error::from)
        })?;
        let producer = wrapped::Transactions::new(&self.cluster.producing(), &format!("{prefix}raw"))?;
        let topic = Cluster::topic(&prefix);
        let stopwatch = Stopwatch::start();
        for records in self.transactions()? {
            producer.commit(&topic, records)?;
        }
        let cost = stopwatch.stop(self.count);
        drop(producer);
        self.verify_and_remove(&prefix)?;
        Ok(cost)
    }

    fn remark(&self) -> String {
        format!("{PARTITIONS} partitions, keys by Zipf 1.0 over 10,000; verified by a read-committed reader")
    }
}
