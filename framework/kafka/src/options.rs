//! Where the cluster is and how it is used.

use std::{borrow::Cow, env, fs, net::IpAddr};

use aqueduct_core::{LogError, url::LogUrl};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel, consumer::BaseConsumer, producer::BaseProducer};

use crate::{
    error::{client, configuration},
    properties::{self, Properties, Role},
};

const DEFAULT_PARTITIONS: i32 = 8;
/// What a broker takes by default (1,048,588 bytes with its own overhead), less what a dead letter may have more and
/// 4 KiB for that overhead.
const DEFAULT_MAX_RECORD_BYTES: usize = (1 << 20) - aqueduct_core::log::LETTER_BYTES - 4_096;
const MAX_MAX_RECORD_BYTES: usize = 256 << 20;
pub(crate) const PARAMETERS: [&str; 6] =
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
    insecure: bool,
    properties: Properties,
}

impl KafkaOptions {
    /// Reads `kafka://HOST:PORT[,HOST:PORT..][?NAME=VALUE&..]`. In a value, `%` and two hexadecimal digits are a byte.
    ///
    /// - `partitions` (8), `replication` (the cluster's default): of topics that are made without saying it themselves;
    /// - `max_record_bytes` (956 KiB): the largest record; with it go 64 KiB for dead letters, and a topic must take both;
    /// - `create_topics` (true): whether topics that are missing are made;
    /// - `prefix`: begins the names of all topics, groups and transactional ids in the cluster, so that several
    ///   environments can share one;
    /// - `insecure`: allows a cluster that is not on this machine without encryption, a password that is sent without it,
    ///   and certificates that are not verified;
    /// - `group.protocol=consumer`: groups are assigned by their broker (KIP-848; Apache Kafka 4.0), which then decides how
    ///   soon a silent member is put out; `classic` by default;
    /// - any property of librdkafka by its own name, such as `security.protocol=sasl_ssl`, `sasl.mechanism=SCRAM-SHA-512`,
    ///   `sasl.username=alice`, `ssl.ca.location=/etc/ca.pem`, `linger.ms=5`. One that would undo a promise is refused
    ///   with the reason. The secret ones (`sasl.password`, `ssl.key.password`, `ssl.key.pem`, `ssl.keystore.password`)
    ///   are not written into a URL, which others see: `file:PATH` or `env:NAME` says where they are.
    ///
    /// The client takes a batch apart before `max_record_bytes` is compared, and bounds what it may grow to for zstd alone
    /// (`receive.message.max.bytes`, 100 MB). With gzip, lz4 and snappy a batch can take some 1,000, 250 and 20 times its size
    /// in memory by their formats; 120 MB went through each (librdkafka 2.12.1). What bounds it is the `max.message.bytes` of
    /// the topic, and who may write to it.
    ///
    /// # Errors
    /// `Configuration`: another scheme, no server, an unknown parameter, a value that is out of range, a secret that is
    /// written out or not where the URL says.
    pub fn parse(url: &str) -> Result<Self, LogError> {
        let url = LogUrl::parse(url, "kafka://", "HOST:PORT")?;
        let mut options = Self {
            servers: url.place().trim_end_matches('/').to_owned(),
            partitions: DEFAULT_PARTITIONS,
            replication: -1,
            max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
            create_topics: true,
            prefix: String::new(),
            insecure: false,
            properties: Properties::default(),
        };
        for (name, value) in url.parameters() {
            let (number, choice) = ("a whole number", "true or false");
            match name {
                "partitions" => options.partitions = url.read(name, value, number)?,
                "replication" => options.replication = url.read(name, value, number)?,
                "max_record_bytes" => options.max_record_bytes = url.read(name, value, number)?,
                "create_topics" => options.create_topics = url.read(name, value, choice)?,
                "insecure" => options.insecure = url.read(name, value, choice)?,
                "prefix" => value.clone_into(&mut options.prefix),
                _ if properties::is_known(name) => {
                    let value = if properties::is_secret(name) {
                        Cow::Owned(look_up(name, value).map_err(|what| url.wrong(&what))?)
                    } else {
                        Cow::Borrowed(value)
                    };
                    let set = options.properties.set(name, &value);
                    set.map_err(|error| url.wrong(&error.to_string()))?;
                }
                _ => return Err(url.unknown(name, PARAMETERS.into_iter().chain(properties::names()))),
            }
        }
        options
            .check()
            .and_then(|()| options.properties.check())
            .map_err(|error| url.wrong(&error.to_string()))?;
        Ok(options)
    }

    /// Sets a property of librdkafka, such as a password that the program has from a vault. What may be set, and what a
    /// URL may say, is the same; a secret is the value itself.
    ///
    /// # Errors
    /// `Configuration`: there is no such property, it would undo a promise, the client does not take the value, or it
    /// needs `insecure=true` in the URL.
    pub fn property(mut self, name: &str, value: &str) -> Result<Self, LogError> {
        self.properties.set(name, value)?;
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), LogError> {
        for server in self.servers.split(',') {
            let Some((host, port)) = server.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
                return Err(configuration(format!("{server:?} is not HOST:PORT")));
            };
            if port.parse::<u16>().is_err() {
                return Err(configuration(format!("{port:?} is not a port")));
            }
            self.check_secure(host)?;
        }
        if self.partitions < 1 {
            return Err(configuration("partitions must be at least 1".to_owned()));
        }
        if self.replication != -1 && !(1..=i32::from(i16::MAX)).contains(&self.replication) {
            return Err(configuration(format!("replication must be from 1 to {}", i16::MAX)));
        }
        if !(1..=MAX_MAX_RECORD_BYTES).contains(&self.max_record_bytes) {
            return Err(configuration(format!("max_record_bytes must be from 1 to {MAX_MAX_RECORD_BYTES}")));
        }
        if !self.prefix.is_empty() {
            // A name may follow it, so it may end where a name may not.
            aqueduct_core::name::check("prefix", &format!("{}x", self.prefix))?;
        }
        Ok(())
    }

    /// P11: what goes to `host` is encrypted and the host is who it should be, unless `insecure` says otherwise.
    fn check_secure(&self, host: &str) -> Result<(), LogError> {
        if self.insecure || aqueduct_core::planted("kafka-plaintext-anywhere") {
            return Ok(());
        }
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let (encrypted, user) = self.properties.protocol();
        let is =
            |name, value: &str| self.properties.get(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
        let what = if !here && !encrypted {
            format!("the connection to {host} would not be encrypted (security.protocol=ssl)")
        } else if user && !encrypted {
            format!("the password would go to {host} without encryption (security.protocol=sasl_ssl)")
        } else if is("enable.ssl.certificate.verification", "false") {
            format!("the certificate of {host} would not be verified")
        } else if is("ssl.endpoint.identification.algorithm", "none") {
            format!("the certificate of {host} may be another host's")
        } else {
            return Ok(());
        };
        Err(configuration(format!("{what}; insecure=true allows it")))
    }

    /// Makes a client of each kind that is never connected: properties are right one by one, and may not go together.
    pub(crate) fn try_out(&self) -> Result<(), LogError> {
        self.properties.check()?;
        if self.properties.is_empty() {
            return Ok(());
        }
        let alone = |mut config: ClientConfig| {
            config.remove("bootstrap.servers");
            config
        };
        let tried = "the properties do not go together";
        let made = |error| client(tried, error);
        alone(self.member("aqueduct")).create::<BaseConsumer>().map_err(made)?;
        alone(self.producing()).create::<BaseProducer>().map_err(made)?;
        alone(self.transacting("aqueduct")).create::<BaseProducer>().map_err(made)?;
        Ok(())
    }

    /// Sends no credentials and does not compare the host's name: whether another host's certificate is what is wrong.
    pub(crate) fn nameless(&self) -> ClientConfig {
        let mut config = self.asking();
        for name in ["sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"] {
            config.remove(name);
        }
        for name in ["location", "pem"] {
            config.remove(&format!("ssl.certificate.{name}")).remove(&format!("ssl.key.{name}"));
        }
        config.remove("ssl.key.password").remove("ssl.keystore.location").remove("ssl.keystore.password");
        config.set("security.protocol", "ssl").set("ssl.endpoint.identification.algorithm", "none");
        // Says that a certificate was accepted.
        config.set("debug", "security").set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// What all clients have in common.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("client.id", "aqueduct");
        // A broker that restarts is back within seconds; the default waits up to 10 s.
        config.set("reconnect.backoff.max.ms", "1000");
        let debugs = self.properties.get("debug").is_some();
        config.set_log_level(if debugs { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
        config
    }

    /// Of the client that asks: what it says of ends counts what transactions have under way.
    pub(crate) fn asking(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        self.properties.apply(&mut config, Role::Asks);
        config
    }

    /// Of a client that asks in a group's name, and does not belong to it. Pending transactions are waited for.
    pub(crate) fn asking_of(&self, group: &str) -> ClientConfig {
        let mut config = self.asking();
        config.set("group.id", group).set("isolation.level", "read_committed");
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
        if aqueduct_core::planted("kafka-markers-not-passed") {
            config.set("enable.partition.eof", "false");
        }
        if aqueduct_core::planted("kafka-reads-what-was-rolled-back") {
            config.set("isolation.level", "read_uncommitted");
        }
        self.properties.apply(&mut config, Role::Reads);
        config
    }

    /// Whether groups are assigned by their broker (KIP-848) and not by one of their members.
    pub(crate) fn coordinated(&self) -> bool {
        self.properties
            .get("group.protocol")
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
    }

    /// Of a member of a group.
    pub(crate) fn member(&self, group: &str) -> ClientConfig {
        let mut config = self.reading();
        config.set("group.id", group).set("enable.partition.eof", "false");
        if !self.coordinated() {
            config
                .set("partition.assignment.strategy", "cooperative-sticky")
                // A hand-over waits for heartbeats.
                .set("heartbeat.interval.ms", "500")
                .set("session.timeout.ms", "6000");
        }
        self.properties.apply(&mut config, Role::Reads);
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
            .set("linger.ms", "0")
            // Above what callers may have in flight: the client never refuses, since its refusal would reorder.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", "2147483647")
            .set("message.max.bytes", largest.to_string());
        if aqueduct_core::planted("kafka-keys-go-elsewhere") {
            config.set("partitioner", "consistent_random");
        }
        self.properties.apply(&mut config, Role::Produces);
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
        self.properties.apply(&mut config, Role::Produces);
        // librdkafka 2.12.1 gives a request for a group's broker no end of its own (`creq_ts_timeout` is never read): after some
        // answers it waits for any connection to change, and a call of a transaction with it. An idle one that is closed does.
        config.set("connections.max.idle.ms", "10000");
        if aqueduct_core::planted("kafka-producer-fences-nobody") {
            config.set("transactional.id", format!("{id}-{}", uuid::Uuid::now_v7()));
        }
        config
    }
}

/// Where a secret is, followed.
fn look_up(name: &str, place: &str) -> Result<String, String> {
    let secret = if let Some(path) = place.strip_prefix("file:") {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{name}: cannot read {path}: {error}"))?;
        // An editor's or `echo`'s.
        text.strip_suffix('\n')
            .map_or(text.clone(), |text| text.strip_suffix('\r').unwrap_or(text).to_owned())
    } else if let Some(variable) = place.strip_prefix("env:") {
        env::var(variable).map_err(|error| format!("{name}: {variable}: {error}"))?
    } else {
        return Err(format!(
            "{name} is a secret, which others would see in a URL: file:PATH or env:NAME says where it is"
        ));
    };
    if secret.is_empty() { Err(format!("{name}: {place} is empty")) } else { Ok(secret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a client is made without the properties that concern it, or with one beside what it is another name of.
    #[test]
    fn properties_go_to_the_clients_that_have_them() {
        let url = "kafka://h:1?security.protocol=ssl&queue.buffering.max.ms=7&fetch.min.bytes=8";
        let options = KafkaOptions::parse(url).unwrap();
        let clients = [
            (options.asking(), None, None),
            (options.reading(), None, Some("8")),
            (options.member("g"), None, Some("8")),
            (options.producing(), Some("7"), None),
            (options.transacting("t"), Some("7"), None),
        ];
        for (config, linger, fetch) in clients {
            assert_eq!(config.get("security.protocol"), Some("ssl"), "{config:?}");
            assert_eq!(config.get("queue.buffering.max.ms"), linger, "{config:?}");
            assert_eq!(config.get("linger.ms"), None, "{config:?}");
            assert_eq!(config.get("fetch.min.bytes"), fetch, "{config:?}");
        }
    }

    /// P11: a host that is not the one asked for is sent no credentials. Red when `nameless` leaves one.
    #[test]
    fn who_asks_whose_certificate_it_is_has_no_credentials() {
        let secrets =
            ["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password", "sasl.username"];
        let url = "kafka://h:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN&ssl.key.location=/k&ssl.certificate.location=/c";
        let options = KafkaOptions::parse(url).unwrap();
        let options = secrets.iter().fold(options, |options, name| options.property(name, "canary").unwrap());
        let (asking, nameless) = (options.asking(), options.nameless());
        let own = ["ssl.key.location", "ssl.certificate.location", "sasl.mechanism"];
        for name in secrets.iter().chain(&own) {
            assert!(asking.get(name).is_some() && nameless.get(name).is_none(), "{name}");
        }
        assert_eq!(nameless.get("security.protocol"), Some("ssl"));
    }
}
