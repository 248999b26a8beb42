//! P12: any property of librdkafka by its own name, but for those that would undo a promise.

use aqueduct_core::{LogError, LogErrorKind};
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

fn refused(result: Result<KafkaOptions, LogError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Configuration, "{error}");
    error.to_string()
}

fn parse(query: &str) -> Result<KafkaOptions, LogError> {
    KafkaOptions::parse(&format!("kafka://localhost:1?{query}"))
}

fn set(name: &str, value: &str) -> Result<KafkaOptions, LogError> {
    parse("").unwrap().property(name, value)
}

/// Red when an unknown property is taken, so that the client alone hears of it, or its value is not tried.
#[test]
fn a_misspelt_property_and_a_wrong_value_are_named() {
    for (query, text) in [
        ("linger.mz=5", "unknown parameter \"linger.mz\", did you mean \"linger.ms\"?"),
        ("ssl.ca.locatoin=/x", "unknown parameter \"ssl.ca.locatoin\", did you mean \"ssl.ca.location\"?"),
        ("partition=1", "unknown parameter \"partition\", did you mean \"partitions\"?"),
        ("nothing.of.the.kind=1", "unknown parameter \"nothing.of.the.kind\""),
        ("linger.ms=soon", "linger.ms: Invalid value for configuration property \"queue.buffering.max.ms\""),
        ("linger.ms=5&queue.buffering.max.ms=6", "queue.buffering.max.ms says what linger.ms says too"),
        (
            "compression.type=rar",
            "compression.type: Invalid value \"rar\" for configuration property \"compression.codec\"",
        ),
        (
            "fetch.min.bytes=-1",
            "fetch.min.bytes: Configuration property \"fetch.min.bytes\" value -1 is outside allowed range 1..100000000",
        ),
    ] {
        assert_eq!(refused(parse(query)), format!("\"kafka://localhost:1?..\": {}", text));
    }
    let text = "librdkafka has no property \"sasl.pasword\", did you mean \"sasl.password\"?";
    assert_eq!(refused(set("sasl.pasword", "canary")), text);
    assert_eq!(refused(set("client.id", "a\0b")), "client.id: a zero byte is no part of a value");
    for query in
        ["linger.ms=0.5&compression.type=zstd", "fetch.min.bytes=2&client.rack=eu%26us", "debug=broker,topic"]
    {
        parse(query).unwrap();
    }
}

/// P1, P2, P3. Red when one of them is taken: `refused` gives `None` for it.
#[test]
fn a_property_that_would_undo_a_promise_is_refused_with_the_reason() {
    for (name, value, reason) in [
        ("enable.idempotence", "false", "once and in order"),
        ("acks", "1", "once and in order"),
        ("request.required.acks", "1", "once and in order"),
        ("max.in.flight", "100", "once and in order"),
        ("max.in.flight.requests.per.connection", "100", "once and in order"),
        ("retries", "0", "once and in order"),
        ("message.send.max.retries", "0", "once and in order"),
        ("enable.gapless.guarantee", "false", "once and in order"),
        ("message.timeout.ms", "1000", "once and in order"),
        ("delivery.timeout.ms", "1000", "once and in order"),
        ("queue.buffering.max.messages", "1", "overtake"),
        ("queue.buffering.max.kbytes", "1", "overtake"),
        ("queuing.strategy", "lifo", "overtake"),
        ("delivery.report.only.error", "true", "report of its own record"),
        ("partitioner", "random", "the Java client chooses"),
        ("transactional.id", "mine", "fence"),
        ("transaction.timeout.ms", "900000", "rolled back after 10 s"),
        ("enable.auto.commit", "true", "when its delivery has ended"),
        ("auto.commit.enable", "true", "when its delivery has ended"),
        ("enable.auto.offset.store", "true", "when its delivery has ended"),
        ("auto.offset.reset", "latest", "said by its subscription"),
        ("isolation.level", "read_uncommitted", "what was committed"),
        ("enable.partition.eof", "false", "where its partition ends"),
        ("check.crcs", "false", "damaged records"),
        ("group.id", "mine", "in its own way"),
        ("group.instance.id", "me", "in its own way"),
        ("group.protocol.type", "consumer", "in its own way"),
        ("partition.assignment.strategy", "range", "in its own way"),
        ("bootstrap.servers", "elsewhere:1", "the hosts of the URL"),
        ("metadata.broker.list", "elsewhere:1", "the hosts of the URL"),
        ("allow.auto.create.topics", "true", "create_topics"),
        ("message.max.bytes", "1000", "max_record_bytes"),
        ("plugin.library.paths", "/tmp/x.so", "foreign code"),
        ("statistics.interval.ms", "1000", "nothing here reads"),
        ("log_level", "7", "`tracing`"),
        ("dr_msg_cb", "x", "no text"),
        ("sasl.mechanism", "OAUTHBEARER", "tokens"),
        ("sasl.oauthbearer.config", "x", "tokens"),
        ("sasl.kerberos.principal", "x", "no Kerberos"),
    ] {
        let text = refused(set(name, value));
        assert!(text.starts_with(name) && text.contains(reason), "{text}");
        let text = refused(parse(&format!("{name}={value}")));
        assert!(text.contains(name) && text.contains(reason), "{text}");
    }
}

/// P11. Red when what a connection is protected by can be taken away without `insecure`.
#[test]
fn what_weakens_a_connection_needs_insecure() {
    let user = "sasl.mechanism=PLAIN&sasl.username=alice";
    for (host, query, text) in [
        ("broker", "", "the connection to broker would not be encrypted (security.protocol=ssl)"),
        (
            "broker",
            &*format!("security.protocol=sasl_plaintext&{user}"),
            "the connection to broker would not be encrypted (security.protocol=ssl)",
        ),
        (
            "localhost",
            &format!("security.protocol=SASL_PLAINTEXT&{user}"),
            "the password would go to localhost without encryption (security.protocol=sasl_ssl)",
        ),
        (
            "broker",
            "security.protocol=ssl&enable.ssl.certificate.verification=false",
            "the certificate of broker would not be verified",
        ),
        (
            "broker",
            "security.protocol=ssl&ssl.endpoint.identification.algorithm=none",
            "the certificate of broker may be another host's",
        ),
    ] {
        let url = format!("kafka://{host}:1?{query}");
        let said = refused(KafkaOptions::parse(&url));
        assert!(said.ends_with(&format!("{text}; insecure=true allows it")), "{said}");
        KafkaOptions::parse(&format!("{url}&insecure=true")).unwrap();
    }
    let encrypted = KafkaOptions::parse("kafka://broker:1?security.protocol=ssl").unwrap();
    let said = refused(encrypted.property("security.protocol", "plaintext"));
    assert!(said.contains("would not be encrypted"), "{said}");
}

/// P12: no option is accepted and ignored. Red when `Properties::check` lets one pass.
#[tokio::test]
async fn what_would_have_no_effect_is_refused() {
    for (query, text) in [
        (
            "ssl.ca.location=/ca.pem",
            "ssl.ca.location is set, and has no effect unless security.protocol is ssl or sasl_ssl",
        ),
        (
            "security.protocol=ssl&sasl.username=alice",
            "sasl.username is set, and has no effect unless security.protocol is sasl_ssl",
        ),
        (
            "security.protocol=sasl_ssl&sasl.username=alice",
            "security.protocol asks for a user, and sasl.mechanism is not set",
        ),
    ] {
        assert_eq!(refused(parse(query)), format!("\"kafka://localhost:1?..\": {text}"));
    }
    // What a program sets is complete when it connects.
    let error = KafkaLog::connect(set("sasl.username", "alice").unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("sasl.username is set, and has no effect"), "{error}");
}

/// Red when clients are made only when they are used: the first publish would then fail, long after the start.
#[tokio::test]
async fn properties_that_do_not_go_together_are_refused_at_the_start() {
    for (query, name) in [
        ("session.timeout.ms=400000", "max.poll.interval.ms"),
        ("security.protocol=ssl&ssl.ca.location=/nothing/there", "ssl.ca.location"),
        ("security.protocol=sasl_ssl&sasl.mechanism=SCRAM-SHA-512", "sasl.username"),
    ] {
        let options = KafkaOptions::parse(&format!("{}?{query}", cluster::url())).unwrap();
        let error = KafkaLog::connect(options).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    // These do.
    let url = format!("{}?session.timeout.ms=9000&linger.ms=0.5&compression.type=lz4", cluster::url());
    KafkaLog::connect(KafkaOptions::parse(&url).unwrap()).await.unwrap();
}
