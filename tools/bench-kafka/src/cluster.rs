//! The cluster, and the settings that both sides have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use aqueduct::{
    Bus, Environment, Event, TopicName,
    core::log::{CommitLog, TopicSpec},
    kafka::{KafkaLog, KafkaOptions},
};
use bench::{events::Sold, raw::PARTITIONS};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::raw::direct;

/// How long a request of administration may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One broker, where each run has topics of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: String,
    runs: AtomicU32,
    pub(crate) environment: Environment,
}

impl Cluster {
    /// `url`: `kafka://HOST:PORT`.
    pub(crate) fn new(url: &str, environment: Environment) -> anyhow::Result<Arc<Self>> {
        let servers = url.strip_prefix("kafka://").context("--log must be kafka://HOST:PORT")?;
        Ok(Arc::new(Self { servers: servers.to_owned(), runs: AtomicU32::new(0), environment }))
    }

    /// A prefix that no topic has yet.
    pub(crate) fn prefix(&self) -> String {
        format!("bench-{}-{}.", std::process::id(), self.runs.fetch_add(1, Ordering::Relaxed))
    }

    /// Our log, its names under a prefix.
    pub(crate) async fn log(&self, prefix: &str, partitions: i32) -> anyhow::Result<Arc<KafkaLog>> {
        let url =
            format!("kafka://{}?partitions={partitions}&prefix={prefix}&compression.type=lz4", self.servers);
        Ok(KafkaLog::connect(KafkaOptions::parse(&url)?).await?)
    }

    /// Our log and a bus on it, with the standard event's topic made.
    pub(crate) async fn open(&self, prefix: &str) -> anyhow::Result<(Arc<KafkaLog>, Bus)> {
        let log = self.log(prefix, PARTITIONS).await?;
        log.ensure_topic(TopicSpec::new(TopicName::new(Sold::INFO.topic)?)).await?;
        let bus = Bus::open(Arc::clone(&log) as Arc<dyn CommitLog>, self.environment.clone()).await?;
        Ok((log, bus))
    }

    /// The name in the cluster of the standard event's topic.
    pub(crate) fn topic(prefix: &str) -> String {
        format!("{prefix}{}", Sold::INFO.topic)
    }

    /// Checks that the standard event's topic has so many records, by its ends, and removes it.
    pub(crate) async fn verify_and_remove(&self, prefix: &str, count: u64) -> anyhow::Result<()> {
        let log = self.log(prefix, PARTITIONS).await?;
        let ends = log.end_offsets(&TopicName::new(Sold::INFO.topic)?).await?;
        log.close().await?;
        let found: i64 = ends.iter().sum();
        ensure!(u64::try_from(found)? == count, "{count} events were published, the topic has {found}");
        self.remove(prefix).await
    }

    /// Checks, by a raw reader of what was committed, that the standard event's topic has so many records.
    pub(crate) fn count_committed(&self, prefix: &str, count: u64) -> anyhow::Result<()> {
        direct::consume(&self.reading(), &Self::topic(prefix), PARTITIONS, count, |_| ())
    }

    /// Removes the standard event's topic.
    pub(crate) async fn remove(&self, prefix: &str) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for removed in admin.delete_topics(&[&Self::topic(prefix)], &options).await? {
            removed.map_err(|(topic, code)| anyhow::anyhow!("cannot remove {topic}: {code}"))?;
        }
        Ok(())
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("client.id", "bench");
        config
    }

    /// What a raw producer is made with: durability, order and batching of ours.
    pub(crate) fn producing(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            .set("message.timeout.ms", "0")
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2147483647");
        config
    }

    /// What a raw reader is made with: isolation, checksums and fetch sizes of ours.
    pub(crate) fn reading(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.queue.backoff.ms", "20");
        config
    }
}
