//! Other programs on the same topics: a Python client, which knows CloudEvents and nothing of us, and the Java client.

use std::{
    collections::HashMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct::{
    App, Bus, Delivery, Draft, Handled, State, Subscription, TopicName,
    core::{
        Record,
        log::{PartitionId, Start, TopicSpec},
    },
    prelude::*,
};
use serde_json::{Value, json};

use crate::cluster;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(name = "shop.Sold", topic = "sold", key = basket)]
struct Sold {
    basket: String,
    units: u32,
}

/// The addresses as others are given them.
/// A bus of its own, and the name that its topic has in the cluster.
async fn bus() -> (Bus, String) {
    let prefix = cluster::prefix();
    let bus = aqueduct::connect(&format!("{}?{prefix}&partitions=3", cluster::url())).await.unwrap();
    let bus = bus.with_source("till");
    bus.log().ensure_topic(TopicSpec::new(TopicName::new("sold").unwrap())).await.unwrap();
    (bus, format!("{}sold", prefix.strip_prefix("prefix=").unwrap()))
}

/// Runs the Python client, and gives the lines that it prints.
fn python(arguments: &[&str], input: &str) -> String {
    // Debian's, which has the client as a package.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interop.py")).args(arguments);
    run(command, input)
}

fn run(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An independent client reads what we publish by the attributes of CloudEvents alone. Red when an attribute is not
/// written, or the payload is not the data itself.
#[tokio::test]
async fn a_python_client_reads_our_events() {
    let (bus, topic) = bus().await;
    let sold = |units| Sold { basket: format!("b{units}"), units };
    for units in 1..=3 {
        bus.publish(&sold(units)).await.unwrap();
    }
    let lines = tokio::task::spawn_blocking(move || python(&["read", &cluster::brokers(), &topic, "3"], ""))
        .await
        .unwrap();
    let mut seen: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    seen.sort_by_key(|event| event["data"]["units"].as_u64());
    for (event, units) in seen.iter().zip(1_u32..) {
        let header = |name: &str| event["headers"][name].as_str().unwrap_or("none").to_owned();
        assert_eq!(header("ce_specversion"), "1.0");
        assert_eq!(header("ce_type"), "shop.Sold");
        assert_eq!(header("ce_source"), "till");
        assert_eq!(uuid::Uuid::parse_str(&header("ce_id")).unwrap().get_version_num(), 7);
        assert_eq!(event["key"], json!(format!("b{units}")));
        assert_eq!(event["data"], json!({ "basket": format!("b{units}"), "units": units }));
    }
    assert_eq!(seen.len(), 3);
    bus.log().close().await.unwrap();
}

/// Our handlers take what an independent client writes: an event by its attributes, under the id that it has; a plain
/// record as the topic's default type, under an id that follows from its place. Red when plain records are set aside,
/// or ids are made up.
#[tokio::test]
async fn handlers_take_what_a_python_client_writes() {
    let (bus, topic) = bus().await;
    let event = json!({
        "key": "b1",
        "data": { "basket": "b1", "units": 1 },
        "headers": {
            "ce_specversion": "1.0", "ce_type": "shop.Sold", "ce_source": "elsewhere", "ce_id": "till-4711",
            "content-type": "application/json",
        },
    });
    let plain = json!({ "key": "b2", "data": { "basket": "b2", "units": 2 }, "headers": {} });
    let input = format!("{event}\n{plain}\n");
    tokio::task::spawn_blocking(move || python(&["write", &cluster::brokers(), &topic], &input))
        .await
        .unwrap();

    type Seen = Arc<Mutex<HashMap<u32, (String, Sold)>>>;
    async fn handle(delivery: Delivery<Sold>, State(seen): State<Seen>) -> Handled {
        let id = delivery.envelope.id.to_string();
        seen.lock().unwrap().insert(delivery.event.units, (id, delivery.event));
        Ok(())
    }
    let seen = Seen::default();
    let subscription = Subscription::builder("books").on(handle).topic_default::<Sold>();
    let app = App::builder("books").log(&bus).state(Arc::clone(&seen)).subscribe(subscription);
    let app = app.build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(stopped));
    for _ in 0..600 {
        if seen.lock().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stop);
    running.await.unwrap().unwrap();
    let seen = seen.lock().unwrap().clone();
    let of = |units: u32| seen.get(&units).unwrap_or_else(|| panic!("{units} was not handled: {seen:?}"));
    assert_eq!(*of(1), ("till-4711".to_owned(), Sold { basket: "b1".to_owned(), units: 1 }));
    assert_eq!(of(2).1, Sold { basket: "b2".to_owned(), units: 2 });
    assert_eq!(uuid::Uuid::parse_str(&of(2).0).unwrap().get_version_num(), 8);
    bus.log().close().await.unwrap();
}

/// Keys land where the Java client puts them, so that services of both languages agree on order. Red when the
/// partitioner is another, or the key's bytes are.
#[tokio::test]
async fn ten_thousand_keys_land_where_the_java_client_puts_them() {
    const PARTITIONS: i32 = 12;
    let prefix = cluster::prefix();
    let bus =
        aqueduct::connect(&format!("{}?{prefix}&partitions={PARTITIONS}", cluster::url())).await.unwrap();
    let javas = TopicName::new("javas").unwrap();
    bus.log().ensure_topic(TopicSpec::new(javas.clone())).await.unwrap();
    let keys: Vec<_> = (0..10_000_u32)
        .map(|number| match number % 4 {
            0 => number.to_string(),
            1 => format!("basket/{number}"),
            2 => {
                format!("Ölmühle-{}", "x".repeat(usize::try_from(number % 40).unwrap()) + &number.to_string())
            }
            _ => uuid::Uuid::from_u128(u128::from(number) * 0x9e37_79b9_7f4a_7c15_f39c_c060).to_string(),
        })
        .collect();
    let drafts = keys.iter().map(|key| Draft::of(&Sold { basket: key.clone(), units: 1 }).unwrap());
    let places = bus.publish_all(drafts.collect::<Vec<_>>()).await.unwrap();
    let ours: HashMap<_, _> = keys
        .iter()
        .map(|key| key.as_bytes().to_vec())
        .zip(places.iter().map(|at| at.partition.partition))
        .collect();
    let lines: String = keys.iter().map(|key| format!("{key}\t1\n")).collect();
    let wire = format!("{}javas", prefix.strip_prefix("prefix=").unwrap());
    tokio::task::spawn_blocking(move || {
        let mut java = Command::new("java");
        java.arg("-cp").arg(cluster::jars().join("*")).arg("org.apache.kafka.tools.ConsoleProducer");
        java.args(["--bootstrap-server", &cluster::brokers(), "--topic", &wire]);
        java.args(["--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"]);
        run(java, &lines)
    })
    .await
    .unwrap();
    let javas = partitions_of(&bus, &javas, PARTITIONS).await;
    assert_eq!(javas.len(), 10_000);
    let differ: Vec<_> = javas.iter().filter(|(key, at)| ours.get(*key) != Some(*at)).take(5).collect();
    assert!(differ.is_empty(), "{differ:?}");
    bus.log().close().await.unwrap();
}

/// Where each key of a topic is.
async fn partitions_of(bus: &Bus, topic: &TopicName, partitions: i32) -> HashMap<Vec<u8>, i32> {
    let ends = bus.log().end_offsets(topic).await.unwrap();
    let mut found = HashMap::new();
    for (partition, end) in (0..partitions).zip(ends) {
        let id = PartitionId { topic: topic.clone(), partition };
        let mut reader = bus.log().cursor(&id, Start::Earliest).await.unwrap();
        while reader.position() < end {
            let batch = reader.read(1_000).await.unwrap();
            for record in Record::all(&batch) {
                found.insert(record.key().unwrap().to_vec(), partition);
            }
        }
    }
    found
}
