//! Where the cluster is and how it is used.

use std::net::IpAddr;

use aqueduct_core::LogError;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::error::configuration;

const DEFAULT_PARTITIONS: i32 = 8;
/// What a broker takes by default (1,048,588 bytes with its own overhead), less what a dead letter may have more and
/// 4 KiB for that overhead.
const DEFAULT_MAX_RECORD_BYTES: usize = (1 << 20) - aqueduct_core::log::LETTER_BYTES - 4_096;
const MAX_MAX_RECORD_BYTES: usize = 256 << 20;
const PARAMETERS: [&str; 6] =
    ["create_topics", "insecure", "max_record_bytes", "partitions", "prefix", "replication"];

/// Where a cluster is and how it is used.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    servers: String,
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) max_record_bytes: usize,
    pub(crate) create_topics: bool,
    pub(crate) prefix: String,
}

impl KafkaOptions {
    /// Reads `kafka://HOST:PORT[,HOST:PORT..][?partitions=N&replication=N&max_record_bytes=N&create_topics=false&prefix=P`
    /// `&insecure=true]`.
    ///
    /// - `partitions` (8), `replication` (the cluster's default): of topics that are made without saying it themselves;
    /// - `max_record_bytes` (956 KiB): the largest record; with it go 64 KiB for dead letters, and a topic must take both;
    /// - `create_topics` (true): whether topics that are missing are made;
    /// - `prefix`: begins the names of all topics, groups and transactional ids in the cluster, so that several
    ///   environments can share one;
    /// - `insecure`: allows a cluster that is not on this machine without encryption.
    ///
    /// # Errors
    /// `Configuration`: another scheme, no server, an unknown parameter, or a value that is out of range.
    pub fn parse(url: &str) -> Result<Self, LogError> {
        let Some(rest) = url.strip_prefix("kafka://") else {
            return Err(configuration(format!("{url:?} is not a Kafka log: expected kafka://HOST:PORT")));
        };
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Self {
            servers: servers.trim_end_matches('/').to_owned(),
            partitions: DEFAULT_PARTITIONS,
            replication: -1,
            max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
            create_topics: true,
            prefix: String::new(),
        };
        let mut insecure = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || configuration(format!("{url:?}: {name} must be a whole number, not {value:?}"));
            let choice = || configuration(format!("{url:?}: {name} must be true or false, not {value:?}"));
            match name {
                "partitions" => options.partitions = value.parse().map_err(|_| number())?,
                "replication" => options.replication = value.parse().map_err(|_| number())?,
                "max_record_bytes" => options.max_record_bytes = value.parse().map_err(|_| number())?,
                "create_topics" => options.create_topics = value.parse().map_err(|_| choice())?,
                "insecure" => insecure = value.parse().map_err(|_| choice())?,
                "prefix" => value.clone_into(&mut options.prefix),
                _ => return Err(unknown(url, name)),
            }
        }
        options.check(url, insecure)?;
        Ok(options)
    }

    fn check(&self, url: &str, insecure: bool) -> Result<(), LogError> {
        for server in self.servers.split(',') {
            let Some((host, port)) = server.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
                return Err(configuration(format!("{url:?}: {server:?} is not HOST:PORT")));
            };
            if port.parse::<u16>().is_err() {
                return Err(configuration(format!("{url:?}: {port:?} is not a port")));
            }
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
            if !here && !insecure {
                return Err(configuration(format!(
                    "{url:?}: the connection to {host} would not be encrypted; insecure=true allows it"
                )));
            }
        }
        if self.partitions < 1 {
            return Err(configuration(format!("{url:?}: partitions must be at least 1")));
        }
        if self.replication != -1 && !(1..=i32::from(i16::MAX)).contains(&self.replication) {
            return Err(configuration(format!("{url:?}: replication must be from 1 to {}", i16::MAX)));
        }
        if !(1..=MAX_MAX_RECORD_BYTES).contains(&self.max_record_bytes) {
            return Err(configuration(format!(
                "{url:?}: max_record_bytes must be from 1 to {MAX_MAX_RECORD_BYTES}"
            )));
        }
        if !self.prefix.is_empty() {
            // A name may follow it, so it may end where a name may not.
            aqueduct_core::name::check("prefix", &format!("{}x", self.prefix))?;
        }
        Ok(())
    }

    /// What all clients have in common.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("client.id", "aqueduct");
        // A broker that restarts is back within seconds; the default waits up to 10 s.
        config.set("reconnect.backoff.max.ms", "1000");
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// Of the client that asks: what it says of ends counts what transactions have under way.
    pub(crate) fn asking(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// Of a client that reads.
    pub(crate) fn reading(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Tells where a partition ends behind a transaction's marker; see `native::fetch` why that is safe here.
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            // Per partition, since each has a queue of its own.
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.queue.backoff.ms", "20")
            .set("allow.auto.create.topics", "false");
        config
    }

    /// Of a member of a group.
    pub(crate) fn member(&self, group: &str) -> ClientConfig {
        let mut config = self.reading();
        config
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.partition.eof", "false")
            // A hand-over waits for heartbeats.
            .set("heartbeat.interval.ms", "500")
            .set("session.timeout.ms", "6000");
        config
    }

    /// Of a producer.
    pub(crate) fn producing(&self) -> ClientConfig {
        let mut config = self.client();
        let largest = self.max_record_bytes + aqueduct_core::log::LETTER_BYTES + 4_096;
        config
            .set("enable.idempotence", "true")
            // What fails for good stops the client, so that nothing of its key overtakes; it is made anew.
            .set("enable.gapless.guarantee", "true")
            // An outage is waited out, in order. A time-out would leave a gap behind which others are stored.
            .set("message.timeout.ms", "0")
            .set("partitioner", "murmur2_random")
            .set("sticky.partitioning.linger.ms", "0")
            .set("linger.ms", "1")
            // Above what callers may have in flight: the client never refuses, since its refusal would reorder.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2147483647")
            .set("message.max.bytes", largest.to_string());
        config
    }

    /// Of a transactional producer.
    pub(crate) fn transacting(&self, id: &str) -> ClientConfig {
        let mut config = self.producing();
        config
            .set("transactional.id", id)
            // A transaction rolls back what fails, so a gap is none.
            .set("enable.gapless.guarantee", "false")
            .set("message.timeout.ms", "10000")
            .set("transaction.timeout.ms", "10000")
            .set("linger.ms", "0");
        config
    }
}

fn unknown(url: &str, name: &str) -> LogError {
    let nearest = PARAMETERS
        .iter()
        .min_by_key(|right| strsim::damerau_levenshtein(name, right))
        .map_or_else(String::new, |right| format!(", did you mean {right:?}?"));
    configuration(format!("{url:?}: unknown parameter {name:?}{nearest}"))
}
