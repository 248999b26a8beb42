use std::time::Duration;

use aqueduct_core::{Delivery, Handled, LogErrorKind, Record, State, Terminal, record::HeadersBuilder};
use aqueduct_runtime::{OnFailure, Retry, Subscription};

use crate::support::{Bench, Echoed, Seen, Stepped, plain, step};

async fn note(event: Stepped, State(seen): State<Seen>) -> Handled {
    seen.note(&event);
    Ok(())
}

fn header(record: &Record, name: &str) -> String {
    let mut found = Vec::new();
    record.visit_headers(&mut |header| {
        if header.name == name.as_bytes() {
            found.push(String::from_utf8_lossy(header.value.unwrap()).into_owned());
        }
    });
    assert_eq!(found.len(), 1, "{name} of {record:?}");
    found.remove(0)
}

fn ce(name: &str, extra: &[(&[u8], &[u8])]) -> aqueduct_core::Headers {
    let mut headers = HeadersBuilder::new();
    headers.push(b"ce_type", Some(name.as_bytes()));
    for (name, value) in extra {
        headers.push(name, Some(value));
    }
    headers.build()
}

/// P6. Red when `deliver` settles before the copy is stored, or the letter drops a header.
#[tokio::test(start_paused = true)]
async fn a_record_that_fails_for_good_is_kept_byte_for_byte_with_its_reason() {
    async fn refuse(event: Stepped, State(seen): State<Seen>) -> Handled {
        if event.number == 2 {
            return Err(Terminal::new("no such step").into());
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(2).await;
    let seen = Seen::default();
    bench.bus.publish_all(&[1, 2, 3].map(|number| step("a", number))).await.unwrap();
    let running =
        bench.run(Subscription::builder("steps").on(refuse).then(OnFailure::DeadLetter), seen.clone());
    running.ended(3).await;
    assert_eq!(seen.of("a"), [1, 3], "successors of a dead letter go on");
    assert_eq!(running.status().dead_letters, 1);
    running.end().await;
    let letter = bench.records("steps.steps.dead").await.pop().unwrap();
    let original = bench.records("steps").await.into_iter().find(|record| record.offset() == 1).unwrap();
    assert_eq!(
        (letter.key(), letter.value(), letter.partition()),
        (original.key(), original.value(), original.partition())
    );
    let (mut kept, mut were) = (Vec::new(), Vec::new());
    letter.visit_headers(&mut |header| kept.push(format!("{header:?}")));
    original.visit_headers(&mut |header| were.push(format!("{header:?}")));
    assert_eq!(kept[..were.len()], were);
    assert_eq!(header(&letter, "aqueduct_dead_reason"), "no such step");
    assert_eq!(header(&letter, "aqueduct_dead_offset"), "1");
    assert_eq!(header(&letter, "aqueduct_dead_attempts"), "1");
}

/// P6, P12. Each reason is the message that a person reads.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_set_aside_with_the_reason() {
    let stepped = |extra: &[(&[u8], &[u8])]| ce("test.Stepped", extra);
    let good = Some(r#"{"key":"a","number":1}"#);
    let cases = [
        (
            plain(Some("a"), good, ce("test.Unknown", &[])),
            "unknown event type \"test.Unknown\" version 1: no handler takes it and `.ignore` does not name it",
        ),
        (
            plain(Some("a"), good, ce("../x", &[])),
            "unknown event type \"../x\" version 1: no handler takes it and `.ignore` does not name it",
        ),
        (
            plain(Some("a"), Some("{\"key\":1}"), stepped(&[])),
            "the payload is not a test.Stepped: invalid type: integer `1`, expected a string at line 1 column 8",
        ),
        (
            plain(Some("a"), good, ce("test.Stepped.v3", &[])),
            "test.Stepped is known up to version 1, the record has version 3: deploy the newer code first",
        ),
        (plain(None, good, stepped(&[])), "the record has no key, test.Stepped is keyed by (key)"),
        (
            plain(Some("a"), None, stepped(&[])),
            "the record has no value (a tombstone), test.Stepped needs one",
        ),
        (
            plain(Some("a"), good, aqueduct_core::Headers::default()),
            "the record carries no event type (no ce_type header) and the topic declares no default type",
        ),
        (
            plain(Some("a"), good, stepped(&[(b"ce_source", b"\xff\xfe")])),
            "header ce_source: it is not UTF-8: \\xff\\xfe",
        ),
        (
            plain(Some("a"), good, stepped(&[(b"ce_id", b"1"), (b"ce_id", b"2")])),
            "header ce_id: it is there twice",
        ),
        (
            plain(Some("a"), good, stepped(&[(b"ce_specversion", b"2.0")])),
            "header ce_specversion: CloudEvents \"2.0\" is not 1.x",
        ),
    ];
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    for (record, _) in &cases {
        bench.append(record.clone()).await;
    }
    bench.bus.publish(&step("z", 9)).await.unwrap();
    let running = bench.run(
        Subscription::builder("steps").on(note).then(OnFailure::DeadLetter).max_record_bytes(100_000),
        seen.clone(),
    );
    running.ended(11).await;
    assert_eq!(seen.all(), [("z".to_owned(), 9)]);
    running.end().await;
    let letters = bench.records("steps.steps.dead").await;
    let mut reasons: Vec<_> = letters
        .iter()
        .map(|letter| {
            (header(letter, "aqueduct_dead_offset").parse().unwrap(), header(letter, "aqueduct_dead_reason"))
        })
        .collect();
    reasons.sort();
    let expected: Vec<_> = (0_usize..).zip(cases.iter().map(|(_, reason)| (*reason).to_owned())).collect();
    assert_eq!(reasons, expected);
}

/// P12: a record over the limit, and JSON 100,000 levels deep, are dead letters and not a crash.
#[tokio::test(start_paused = true)]
async fn hostile_payloads_are_set_aside() {
    let bench = Bench::new(1).await;
    let deep = format!(r#"{{"key":"a","number":1,"more":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let mut record = plain(Some("a"), None, ce("test.Stepped", &[]));
    record.value = Some(deep.into_bytes().into());
    bench.append(record.clone()).await;
    record.value = Some(vec![b'['; 100_000].into());
    bench.append(record.clone()).await;
    record.value = Some(vec![b' '; 900_000].into());
    bench.append(record).await;
    let running = bench.run(
        Subscription::builder("steps").on(note).then(OnFailure::DeadLetter).max_record_bytes(200_000),
        Seen::default(),
    );
    running.ended(3).await;
    running.end().await;
    let reasons: Vec<_> = bench
        .records("steps.steps.dead")
        .await
        .iter()
        .map(|letter| header(letter, "aqueduct_dead_reason"))
        .collect();
    assert!(
        reasons.last().unwrap().contains("more than the limit of 200000 (max_record_bytes)"),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.starts_with("the payload is not a test.Stepped: ")),
        "{reasons:?}"
    );
}

/// P6: the dead letter of the largest record fits into the log. Red when a transaction has no room for the reason.
/// And an event that the log would not take is its handler's failure, at once.
#[tokio::test(start_paused = true)]
async fn large_records_and_too_large_consequences_are_dead_letters() {
    async fn grow(event: Stepped) -> Handled<Echoed> {
        Ok(Echoed { key: event.key.repeat(2), number: event.number })
    }
    let bench = Bench::new(1).await;
    let large = Stepped { key: "a".repeat(500_000), number: 1 };
    bench.bus.publish(&large).await.unwrap();
    bench.bus.publish(&step("a", 1)).await.unwrap();
    let running = bench.run(Subscription::builder("steps").on(grow).then(OnFailure::DeadLetter), ());
    running.ended(2).await;
    running.end().await;
    let letters = bench.records("steps.steps.dead").await;
    assert_eq!((letters.len(), bench.records("echoes").await.len()), (1, 1));
    assert_eq!(header(&letters[0], "aqueduct_dead_attempts"), "1");
    assert!(
        header(&letters[0], "aqueduct_dead_reason")
            .ends_with("is over the limit of 1048576 (max_record_bytes)")
    );
    assert!(letters[0].size() > 1_000_000);
}

/// P12: a plain record, without our headers, is of the topic's default type.
#[tokio::test(start_paused = true)]
async fn a_plain_record_is_of_the_default_type() {
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    bench
        .append(plain(Some("a"), Some(r#"{"key":"a","number":1}"#), aqueduct_core::Headers::default()))
        .await;
    let running = bench.run(Subscription::builder("steps").on(note).topic_default::<Stepped>(), seen.clone());
    running.ended(1).await;
    assert_eq!(seen.of("a"), [1]);
    running.end().await;
}

/// R3: a panic is one failed attempt of its delivery, no more. Red when `deliver` does not catch it.
#[tokio::test(start_paused = true)]
async fn a_panic_is_one_failed_attempt() {
    async fn panics(delivery: Delivery<Stepped>, State(seen): State<Seen>) -> Handled {
        assert!(delivery.event.key != "a" || delivery.attempt > 1, "out of luck");
        assert!(delivery.event.key != "b", "always out of luck");
        seen.note(&delivery.event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    bench.bus.publish_all(&["a", "b", "c"].map(|key| step(key, 1))).await.unwrap();
    let running = bench.run(
        Subscription::builder("steps")
            .on(panics)
            .then(OnFailure::DeadLetter)
            .retry(Retry::exponential().attempts(3)),
        seen.clone(),
    );
    running.ended(3).await;
    assert_eq!((seen.of("a"), seen.of("b"), seen.of("c")), (vec![1], vec![], vec![1]));
    running.end().await;
    let letter = bench.records("steps.steps.dead").await.pop().unwrap();
    assert_eq!(header(&letter, "aqueduct_dead_reason"), "the handler panicked: always out of luck");
    assert_eq!(header(&letter, "aqueduct_dead_attempts"), "3");
}

/// P6. Red when a failed copy is taken as stored: the settled offset then passes the record.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_past_a_dead_letter_that_was_not_stored() {
    async fn fail(event: Stepped, State(seen): State<Seen>) -> Handled {
        if event.key == "a" {
            return Err(Terminal::new("no").into());
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    let seen = Seen::default();
    bench.log.faults().fail_next_transactions(1_000, LogErrorKind::Unreachable);
    bench.bus.publish_all(&["a", "b"].map(|key| step(key, 1))).await.unwrap();
    let running =
        bench.run(Subscription::builder("steps").on(fail).then(OnFailure::DeadLetter), seen.clone());
    running.ended(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.settled().await, seen.of("b")), (0, vec![1]));
    let waiting = running.status().partitions.values().next().unwrap().waiting.clone().unwrap();
    assert!(waiting.starts_with("the dead letter of steps/0@0 cannot be stored now: "), "{waiting}");
    bench.log.faults().fail_next_transactions(0, LogErrorKind::Unreachable);
    running.ended(2).await;
    running.end().await;
    assert_eq!(bench.settled().await, 2);
    assert_eq!(bench.records("steps.steps.dead").await.len(), 1);
}

/// P6, P10. Red when `End::Stop` is taken as ended.
#[tokio::test(start_paused = true)]
async fn the_policy_stop_stops_the_partition_and_says_so() {
    async fn fail(event: Stepped, State(seen): State<Seen>) -> Handled {
        if event.number == 2 {
            return Err("always".into());
        }
        seen.note(&event);
        Ok(())
    }
    let bench = Bench::new(1).await;
    bench.bus.publish_all(&[1, 2, 3].map(|number| step("a", number))).await.unwrap();
    let seen = Seen::default();
    let subscription = Subscription::builder("steps")
        .on(fail)
        .retry(Retry::exponential().attempts(2))
        .hold_at_most(Duration::ZERO)
        .then(OnFailure::Stop);
    let running = bench.run(subscription, seen.clone());
    crate::support::until(|| !running.status().ready() && running.status().joined).await;
    let stopped = running.status().partitions.values().next().unwrap().stopped.clone();
    assert_eq!(stopped.as_deref(), Some("steps/0@1 failed after 2 attempts: always"));
    running.end().await;
    assert_eq!((bench.settled().await, seen.of("a")), (1, vec![1]));
}

/// An outage of the log is not the record's fault. Red when a failed publish counts as an attempt.
#[tokio::test(start_paused = true)]
async fn an_outage_while_publishing_counts_no_attempt() {
    async fn echo(event: Stepped) -> Handled<Echoed> {
        Ok(Echoed { key: event.key, number: event.number })
    }
    let bench = Bench::new(1).await;
    bench.bus.publish(&step("a", 1)).await.unwrap();
    bench.log.faults().fail_next_appends(6, LogErrorKind::Unreachable);
    let running =
        bench.run(Subscription::builder("steps").on(echo).retry(Retry::exponential().attempts(2)), ());
    running.ended(1).await;
    assert_eq!((running.status().dead_letters, bench.records("echoes").await.len()), (0, 1));
    running.end().await;
}

#[tokio::test]
async fn declarations_that_cannot_run_are_refused() {
    let bench = Bench::new(1).await;
    let error = |subscription| {
        aqueduct_runtime::Subscriber::new(subscription, Seen::default(), bench.bus.clone(), None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error(Subscription::builder("a")), "subscription a has no handler: add one with `.on(..)`");
    assert_eq!(
        error(Subscription::builder("../a").on(note)),
        "subscription \"../a\" is not a name: it must start with a letter or a digit"
    );
    assert_eq!(
        error(Subscription::builder("a").on(note).ignore::<Stepped>()),
        "subscription a names test.Stepped twice: one handler or one `.ignore` per event type"
    );
    assert_eq!(
        error(Subscription::builder("a").on(note).window(0)),
        "subscription a: window must be at least 1"
    );
}

/// The guarantee line says only what is true.
#[tokio::test(start_paused = true)]
async fn the_guarantee_line() {
    let bench = Bench::new(1).await;
    let running = bench.run(Subscription::builder("steps").on(note), Seen::default());
    assert_eq!(
        running.status().guarantee,
        "steps: at least once while the process lives, ordered by key, effects may repeat, parks failing keys after 5 attempts (dead-letters records without a key)"
    );
    running.end().await;
}
