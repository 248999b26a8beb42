//! P12, P11: what is wrong is said, by name and within seconds.

use std::net::TcpListener;

use aqueduct_core::LogErrorKind;
use aqueduct_kafka::{KafkaLog, KafkaOptions};

/// Red when a parameter is accepted and ignored, or encryption is left out without a word.
#[test]
fn a_wrong_url_says_how() {
    for (url, text) in [
        ("kafk://a:1", "\"kafk://a:1\": expected kafka://HOST:PORT"),
        ("kafka://", "\"kafka://\": \"\" is not HOST:PORT"),
        ("kafka://localhost", "\"kafka://localhost\": \"localhost\" is not HOST:PORT"),
        ("kafka://localhost:x", "\"kafka://localhost:x\": \"x\" is not a port"),
        (
            "kafka://localhost:1?partition=4",
            "\"kafka://localhost:1?..\": unknown parameter \"partition\", did you mean \"partitions\"?",
        ),
        ("kafka://localhost:1?partitions=0", "\"kafka://localhost:1?..\": partitions must be at least 1"),
        (
            "kafka://localhost:1?partitions=x",
            "\"kafka://localhost:1?..\": partitions must be a whole number, not \"x\"",
        ),
        (
            "kafka://localhost:1?create_topics=yes",
            "\"kafka://localhost:1?..\": create_topics must be true or false, not \"yes\"",
        ),
        (
            "kafka://broker:1",
            "\"kafka://broker:1\": the connection to broker would not be encrypted (security.protocol=ssl); insecure=true allows it",
        ),
        (
            "kafka://localhost:1,10.0.0.1:2",
            "\"kafka://localhost:1,10.0.0.1:2\": the connection to 10.0.0.1 would not be encrypted (security.protocol=ssl); insecure=true allows it",
        ),
    ] {
        let error = KafkaOptions::parse(url).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (LogErrorKind::Configuration, text.to_owned()));
    }
    KafkaOptions::parse("kafka://broker:1,[::1]:2?insecure=true&prefix=test.").unwrap();
}

/// Red when connecting waits for a broker that is not there, or does not say why it gave up.
#[tokio::test]
async fn no_broker_is_said_with_its_cause() {
    // Bound and closed again: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = KafkaOptions::parse(&format!("kafka://127.0.0.1:{port}")).unwrap();
    let error = KafkaLog::connect(options).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unreachable);
    let text = error.to_string();
    assert!(text.contains("Connection refused") && text.contains(&port.to_string()), "{text}");
}
