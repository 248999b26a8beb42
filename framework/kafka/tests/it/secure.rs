//! P11, P12: encrypted connections, and what is said where one is refused.

use std::time::{Duration, Instant};

use aqueduct_core::{
    Headers, LogError, LogErrorKind, NewRecord, Record, Timestamp, TopicName,
    log::{CommitLog, PartitionId, Start, TopicSpec},
};
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

/// What a secret is in these tests: it must be found nowhere.
const CANARY: &str = "canary-7f3a";

async fn connect(url: &str) -> Result<std::sync::Arc<KafkaLog>, LogError> {
    KafkaLog::connect(KafkaOptions::parse(url)?).await
}

/// Connects in vain, within 5 s, and gives what was said.
async fn refused(options: KafkaOptions, kind: LogErrorKind) -> String {
    let started = Instant::now();
    let error = KafkaLog::connect(options).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{error} after {:?}", started.elapsed());
    assert_eq!(error.kind(), kind, "{error}");
    let said = format!("{error} {error:?}");
    assert!(!said.contains(CANARY), "{said}");
    said
}

/// The same URL with another host or another value of a parameter.
fn with(url: &str, from: &str, to: &str) -> String {
    assert!(url.contains(from), "{url} has {from}");
    url.replace(from, to)
}

/// Red when a client of any kind is made without the properties: `Properties::apply` left out of `member`, `producing` ..
#[tokio::test]
async fn each_listener_takes_the_right_credentials() {
    for listener in ["tls", "mutual", "scram"] {
        let log: std::sync::Arc<dyn CommitLog> =
            connect(&format!("{}&{}", cluster::secure(listener), cluster::prefix())).await.unwrap();
        let topic = TopicName::new("t").unwrap();
        let spec = TopicSpec { partitions: Some(1), ..TopicSpec::new(topic.clone()) };
        log.ensure_topic(spec).await.unwrap();
        let record = |value: &'static [u8]| NewRecord {
            topic: topic.clone(),
            partition: Some(0),
            key: None,
            headers: Headers::default(),
            value: Some(value.into()),
            timestamp: Timestamp::from_millis(1_700_000_000_000),
        };
        let mut transactions = log.transactional_producer("x").await.unwrap();
        transactions.commit(vec![record(b"one")], None).await.unwrap();
        let partition = PartitionId { topic: topic.clone(), partition: 0 };
        let mut reader = log.cursor(&partition, Start::Earliest).await.unwrap();
        let reading = async {
            loop {
                let batch = reader.read(10).await.unwrap();
                if let Some(record) = Record::all(&batch).next() {
                    break record.value().unwrap().to_vec();
                }
            }
        };
        let value = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the record is read");
        assert_eq!(value, b"one", "{listener}");
        log.close().await.unwrap();
    }
}

/// Red when connecting waits for its time-out, or takes every refusal for an unreachable broker.
#[tokio::test]
async fn a_wrong_password_is_named() {
    let url = cluster::secure("scram");
    let options = KafkaOptions::parse(&url).unwrap().property("sasl.password", CANARY).unwrap();
    let said = refused(options, LogErrorKind::Unauthenticated).await;
    assert!(said.starts_with("Kafka refused the user or the password: "), "{said}");
    let options = KafkaOptions::parse(&with(&url, "sasl.username=alice", "sasl.username=nobody")).unwrap();
    refused(options, LogErrorKind::Unauthenticated).await;
}

/// Red when the two faults of a certificate are not told apart: `is_of_another_host` always true, or always false.
#[tokio::test]
async fn an_unknown_authority_and_a_wrong_host_are_told_apart() {
    for listener in ["tls", "mutual", "scram"] {
        let url = cluster::secure(listener);
        let options = KafkaOptions::parse(&with(&url, "/ca.pem", "/other-ca.pem")).unwrap();
        let said = refused(options, LogErrorKind::UnknownAuthority).await;
        assert!(said.contains("ssl.ca.location"), "{said}");
        // Another way to write the same address, which the certificate does not name.
        let options = KafkaOptions::parse(&with(&url, "127.0.0.1", "127.1")).unwrap();
        let said = refused(options, LogErrorKind::WrongHost).await;
        assert!(said.contains("another host's") && said.contains("127.1"), "{said}");
    }
}

/// Red when an alert of the broker is not taken for a refusal.
#[tokio::test]
async fn a_missing_certificate_of_the_client_is_named() {
    let url = cluster::secure("mutual");
    let (place, _) = url.split_once("&ssl.certificate").unwrap();
    let said = refused(KafkaOptions::parse(place).unwrap(), LogErrorKind::Unauthenticated).await;
    assert!(said.starts_with("Kafka did not take this client's certificate, or wants one: "), "{said}");
}

/// Red when who hangs up leaves no more behind than that all brokers are down.
#[tokio::test]
async fn a_listener_of_the_other_kind_is_named() {
    let (plain, tls, scram) = (cluster::url(), cluster::secure("tls"), cluster::secure("scram"));
    let (tls_place, encrypted) = tls.split_once('?').unwrap();
    let scram_place = scram.split('?').next().unwrap();
    let (to_plain, to_tls, to_scram) =
        (format!("{plain}?{encrypted}"), tls_place, format!("{scram_place}?{encrypted}"));
    let connecting = tokio::join!(connect(&to_plain), connect(to_tls), connect(&to_scram));
    for connected in [connecting.0, connecting.1, connecting.2] {
        let error = connected.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("another protocol (security.protocol)"), "{error}");
    }
}
