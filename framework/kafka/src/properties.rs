//! Properties of librdkafka that a user sets: which there are, which are secret, and which would undo a promise.

use std::fmt;

use aqueduct_core::{LogError, url::nearest};
use rdkafka::{ClientConfig, error::KafkaError};

use crate::error::configuration;

/// Name, which clients have it (`*` all, `P` those that produce, `C` those that read) and, of another name for a
/// property, that property. From the CONFIGURATION.md of librdkafka 2.12.1; a test compares it with the library.
const TABLE: &str = include_str!("properties.tsv");

/// Never shown, and in a URL only as a reference to a file or a variable.
const SECRET: [&str; 4] = ["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password"];

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Asks,
    Reads,
    Produces,
}

/// What a user set, by the properties' own names.
#[derive(Clone, Default)]
pub(crate) struct Properties(Vec<Property>);

#[derive(Clone)]
struct Property {
    known: Known,
    value: String,
}

#[derive(Clone, Copy)]
struct Known {
    name: &'static str,
    clients: &'static str,
    /// The property that this is another name of, or itself.
    means: &'static str,
}

fn table() -> impl Iterator<Item = Known> {
    TABLE.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        let (name, clients) = (columns.next()?, columns.next()?);
        Some(Known { name, clients, means: columns.next().unwrap_or(name) })
    })
}

/// All names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    table().map(|known| known.name)
}

pub(crate) fn is_known(name: &str) -> bool {
    names().any(|known| known == name)
}

pub(crate) fn is_secret(name: &str) -> bool {
    SECRET.contains(&name)
}

impl Properties {
    /// Takes a property, or says why not.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), LogError> {
        let Some(known) = table().find(|known| known.name == name) else {
            let meant = nearest(name, names());
            let meant = meant.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
            return Err(configuration(format!("librdkafka has no property {name:?}{meant}")));
        };
        if let Some(reason) = refused(known.means)
            && !aqueduct_core::planted("kafka-promise-undone")
        {
            return Err(configuration(format!("{name} cannot be set: {reason}")));
        }
        if value.contains('\0') {
            return Err(configuration(format!("{name}: a zero byte is no part of a value")));
        }
        let tried = ClientConfig::new().set(name, value).create_native_config();
        match tried {
            Err(KafkaError::ClientConfig(_, said, ..)) if !is_secret(name) => {
                return Err(configuration(format!("{name}: {}", said.trim_end())));
            }
            Err(_) => return Err(configuration(format!("{name}: the client does not take the value"))),
            Ok(_) => {}
        }
        if known.means == "sasl.mechanisms" && value == "OAUTHBEARER" {
            return Err(configuration(format!("{name}: {TOKENS}")));
        }
        // The same name again is a newer value, such as a password that was changed.
        let same = self.0.iter().position(|property| property.known.means == known.means);
        match same.map(|index| self.0.remove(index)) {
            Some(other) if other.known.name != name => {
                let text = format!("{name} says what {} says too", other.known.name);
                return Err(configuration(text));
            }
            _ => self.0.push(Property { known, value: value.to_owned() }),
        }
        Ok(())
    }

    /// The value of a property, by its main name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|property| property.known.means == name).map(|property| &*property.value)
    }

    /// Whether what is sent is encrypted, and whether a user and a password are sent.
    pub(crate) fn protocol(&self) -> (bool, bool) {
        let protocol = self.get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
        (protocol.ends_with("ssl"), protocol.starts_with("sasl"))
    }

    /// Refuses what the client would ignore.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let (encrypted, user) = self.protocol();
        for property in &self.0 {
            let name = property.known.name;
            let needs = match name.split('.').next() {
                Some("ssl") if !encrypted => "ssl or sasl_ssl",
                Some("sasl") if !user => "sasl_ssl",
                _ => continue,
            };
            return Err(configuration(format!(
                "{name} is set, and has no effect unless security.protocol is {needs}"
            )));
        }
        if user && self.get("sasl.mechanisms").is_none() {
            return Err(configuration(
                "security.protocol asks for a user, and sasl.mechanism is not set".to_owned(),
            ));
        }
        Ok(())
    }

    /// Puts them over what the log sets itself.
    pub(crate) fn apply(&self, config: &mut ClientConfig, role: Role) {
        for Property { known, value } in &self.0 {
            let concerned = match known.clients {
                "P" => role == Role::Produces,
                "C" => role == Role::Reads,
                _ => true,
            };
            if concerned {
                // Under another name it would be set twice, in any order.
                for other in table().filter(|other| other.means == known.means) {
                    config.remove(other.name);
                }
                config.set(known.name, value);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|Property { known, value }| {
            (known.name, if is_secret(known.name) { ".." } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}

const STORED: &str = "a publish is acknowledged when all replicas in sync have it, once and in order";
const QUEUE: &str = "a client that refuses or reorders what it was given would let records overtake";
const REPORT: &str = "a publish waits for the report of its own record";
const SETTLED: &str = "an offset is settled when its delivery has ended, and by nothing else";
const GROUP: &str = "the log takes part in groups in its own way";
const CODE: &str = "it is no text but a function or an object, which the log gives itself";
const PLUGIN: &str = "foreign code in the client could undo every promise";
const TOKENS: &str = "tokens (OAUTHBEARER) are not supported";
const IGNORED: &str = "the client ignores it";

/// Why a property, by its main name, is not the user's to set.
fn refused(name: &str) -> Option<&'static str> {
    Some(match name {
        "metadata.broker.list" => "the hosts of the URL are it",
        "enable.idempotence"
        | "request.required.acks"
        | "max.in.flight.requests.per.connection"
        | "message.send.max.retries"
        | "enable.gapless.guarantee"
        | "message.timeout.ms" => STORED,
        "queue.buffering.max.messages" | "queue.buffering.max.kbytes" | "queuing.strategy" => QUEUE,
        "delivery.report.only.error" | "produce.offset.report" => REPORT,
        "partitioner" => "a key goes to the partition that the Java client chooses",
        "transactional.id" => "a relay's or group's transactions fence its older ones by it",
        "transaction.timeout.ms" => "a transaction that is left open is rolled back after 10 s",
        "auto.commit.enable"
        | "enable.auto.commit"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "offset.store.method"
        | "offset.store.path"
        | "offset.store.sync.interval.ms" => SETTLED,
        "auto.offset.reset" => "where a new group starts is said by its subscription",
        "isolation.level" => "handlers are given what was committed, and nothing else",
        "enable.partition.eof" => "a reader is told where its partition ends",
        "check.crcs" => "damaged records are never delivered",
        "group.id"
        | "group.instance.id"
        | "group.protocol.type"
        | "group.remote.assignor"
        | "partition.assignment.strategy" => GROUP,
        "allow.auto.create.topics" => "create_topics=false or true says it",
        "message.max.bytes" => "max_record_bytes=N says it",
        "builtin.features" => "it tells what the client was built with, and sets nothing",
        "enabled_events" | "log.queue" | "log_level" => {
            "the client's lines go to `tracing`, whose filter decides"
        }
        "statistics.interval.ms" => "nothing here reads the client's statistics",
        "plugin.library.paths" | "interceptors" => PLUGIN,
        "topic.metadata.refresh.fast.cnt"
        | "socket.blocking.max.ms"
        | "reconnect.backoff.jitter.ms"
        | "consume.callback.max.messages" => IGNORED,
        "opaque"
        | "default_topic_conf"
        | "msg_order_cmp"
        | "ssl_ca"
        | "ssl_certificate"
        | "ssl_key"
        | "ssl_engine_callback_data" => CODE,
        _ if name.ends_with("_cb") => CODE,
        _ if name.contains("oauthbearer") || name.starts_with("https.") => TOKENS,
        _ if name.starts_with("sasl.kerberos.") => "this build has no Kerberos",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write};

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::{native, options::PARAMETERS};

    /// What a file may say of a property, from a line of the library's description.
    fn schema_of(name: &str, range: &str, said: &str) -> Value {
        if is_secret(name) {
            return json!({ "type": "string", "pattern": "^(file|env):.+" });
        }
        let limit = |text: &str| text.trim().parse::<i64>().ok();
        let kind = said.rsplit_once("*Type: ").and_then(|(_, rest)| rest.split('*').next());
        match (kind.unwrap_or_default(), range.split_once("..")) {
            ("integer", Some((low, high))) => {
                json!({ "type": "integer", "minimum": limit(low), "maximum": limit(high) })
            }
            ("float", Some((low, high))) => {
                json!({ "type": "number", "minimum": limit(low), "maximum": limit(high) })
            }
            ("boolean", _) => json!({ "type": "boolean" }),
            ("enum value", _) => json!({ "enum": range.split(", ").collect::<Vec<_>>() }),
            _ => json!({ "type": "string" }),
        }
    }

    /// The published schema of a Kafka log's parameters is the library's description, without what is refused. Red when
    /// `refused` changes without it; `AQUEDUCT_WRITE_SCHEMAS=1` in this test's environment writes it.
    #[test]
    fn the_schema_of_the_parameters_is_the_published_one() {
        let mut properties = own_parameters();
        for line in native::description().lines() {
            let columns: Vec<_> = line.split('|').map(str::trim).collect();
            let [name, "*" | "P" | "C", range, .., said] = &*columns else { continue };
            let Some(known) = table().find(|known| known.name == *name) else { continue };
            if refused(known.means).is_none() && !properties.contains_key(*name) {
                properties.insert((*name).to_owned(), schema_of(name, range, said));
            }
        }
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "[log.parameters] of a log on Kafka",
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        let schema = format!("{schema:#}\n");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kafka-parameters.schema.json");
        if std::env::var_os("AQUEDUCT_WRITE_SCHEMAS").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap();
        assert!(published == schema, "docs/kafka-parameters.schema.json is of other parameters");
    }

    fn own_parameters() -> Map<String, Value> {
        let own = PARAMETERS.map(|name| {
            let schema = match name {
                "create_topics" | "insecure" => json!({ "type": "boolean" }),
                "prefix" => json!({ "type": "string" }),
                _ => json!({ "type": "integer", "minimum": 1 }),
            };
            (name.to_owned(), schema)
        });
        own.into_iter().collect()
    }

    /// Red when a line of the table is taken away, misspelt, or has another column than the library's description.
    #[test]
    fn the_table_is_the_clients_own() {
        let description = native::description();
        let mut lines = BTreeMap::new();
        for line in description.lines() {
            let columns: Vec<_> = line.split('|').map(str::trim).collect();
            let [name, clients @ ("*" | "P" | "C"), .., said] = &*columns else { continue };
            let means = said.strip_prefix("Alias for `").and_then(|rest| Some(rest.split_once('`')?.0));
            // Some are there twice, for a client and for a topic: the client's come first.
            lines.entry(*name).or_insert((*clients, means));
        }
        let mut table = String::new();
        for (name, (clients, means)) in lines {
            let means = means.map(|means| format!("\t{means}")).unwrap_or_default();
            writeln!(table, "{name}\t{clients}{means}").unwrap();
        }
        assert_eq!(table, TABLE);
    }
}
