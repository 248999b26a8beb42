//! P11: secrets are where the URL says, and are never shown.

use std::{
    fs,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aqueduct_core::LogErrorKind;
use aqueduct_kafka::{KafkaLog, KafkaOptions};

use crate::cluster;

const CANARY: &str = "canary-95c1e0";

fn refused(query: &str) -> String {
    let url = format!("kafka://localhost:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN&{query}");
    let error = KafkaOptions::parse(&url).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Configuration);
    let said = format!("{error} {error:?}");
    assert!(!said.contains(CANARY), "{said}");
    error.to_string().replace("\"kafka://localhost:1?..\": ", "")
}

/// Red when a secret is taken from the URL itself, or is shown where it is refused.
#[test]
fn a_secret_is_not_written_into_a_url() {
    let text = "is a secret, which others would see in a URL: file:PATH or env:NAME says where it is";
    for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password"] {
        assert_eq!(refused(&format!("{name}={CANARY}")), format!("{name} {text}"));
    }
    assert_eq!(
        refused(&format!("sasl.pasword={CANARY}")),
        "unknown parameter \"sasl.pasword\", did you mean \"sasl.password\"?"
    );
    refused(&format!("sasl.username=alice&{CANARY}"));
    for url in
        [format!("kafka://alice:{CANARY}@broker:1"), format!("kafka://alice:{CANARY}?x={CANARY}@broker:1")]
    {
        let said = KafkaOptions::parse(&url).unwrap_err().to_string();
        assert!(said.contains("credentials do not belong in a URL") && !said.contains(CANARY), "{said}");
    }
}

/// Red when the end of the file's line is taken for a part of the password, or a place without a secret is accepted.
#[test]
fn a_secret_is_read_from_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("secret");
        fs::write(&path, text).unwrap();
        format!("sasl.password=file:{}", path.display())
    };
    assert!(refused(&file("")).contains("is empty"));
    assert!(refused(&file("\n")).contains("is empty"));
    let absent = refused("sasl.password=file:/nothing/there");
    assert!(absent.starts_with("sasl.password: cannot read /nothing/there: No such file"), "{absent}");
    let absent = refused("sasl.password=env:AQUEDUCT_NOT_SET");
    assert_eq!(absent, "sasl.password: AQUEDUCT_NOT_SET: environment variable not found");
    let url = "kafka://localhost:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN&sasl.password=env:PATH";
    KafkaOptions::parse(url).unwrap();
}

/// Lines that were printed, and those that had a secret in them.
#[derive(Clone, Default)]
struct Sink {
    lines: Arc<AtomicUsize>,
    secrets: Arc<Mutex<Vec<String>>>,
    found: Arc<Mutex<Vec<String>>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.lines.fetch_add(1, Ordering::Relaxed);
        if self.secrets.lock().unwrap().iter().any(|secret| text.contains(secret)) {
            self.found.lock().unwrap().push(text.into_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every line of our own and of the client, at its most talkative. Red when options are shown as they are, or a line is
/// printed with what a property is set to.
#[tokio::test]
async fn no_secret_is_shown_or_logged() {
    let url = cluster::secure("scram");
    let file = url.split("sasl.password=file:").nth(1).unwrap();
    let password = fs::read_to_string(file.split('&').next().unwrap()).unwrap().trim().to_owned();
    let mutual = cluster::secure("mutual");
    let (rest, key) = mutual.split_once("&ssl.key.location=").unwrap();
    let key_text = fs::read_to_string(key).unwrap();
    let key_line = key_text.lines().nth(1).unwrap().to_owned();
    let sink = Sink::default();
    *sink.secrets.lock().unwrap() = vec![password.clone(), key_line.clone(), CANARY.to_owned()];
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
    subscriber.with_writer(move || writer.clone()).init();

    let mut shown = Vec::new();
    for (options, taken) in [
        (KafkaOptions::parse(&format!("{url}&debug=all")).unwrap(), true),
        // A key in its file, as a secret.
        (KafkaOptions::parse(&format!("{rest}&debug=all&ssl.key.pem=file:{key}")).unwrap(), true),
        (
            KafkaOptions::parse(&format!("{url}&debug=all"))
                .unwrap()
                .property("sasl.password", CANARY)
                .unwrap(),
            false,
        ),
    ] {
        shown.push(format!("{options:?}"));
        match KafkaLog::connect(options).await {
            Ok(log) => {
                assert!(taken);
                shown.push(format!("{log:?}"));
            }
            Err(error) => {
                assert!(!taken, "{error}");
                shown.push(format!("{error} {error:?} {:?}", aqueduct_core::BoxError::from(error.clone())));
            }
        }
    }
    let shown = shown.concat();
    assert!(
        shown.contains("\"sasl.password\": \"..\"") && shown.contains("\"sasl.username\": \"alice\""),
        "{shown}"
    );
    for secret in [&password, &key_line, CANARY] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(sink.lines.load(Ordering::Relaxed) > 100, "the client is talkative");
    assert_eq!(*sink.found.lock().unwrap(), Vec::<String>::new());
}
