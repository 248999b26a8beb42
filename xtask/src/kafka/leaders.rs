//! Moves the leaders of partitions, by Kafka's own tools.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    broker,
    state::{Cluster, home},
};

/// A partition, as the tools describe it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    partition: i32,
    leader: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
}

/// Gives each partition of `topic`, or this one, another leader that is in sync.
pub(super) fn shift(cluster: &Cluster, topic: &str, only: Option<i32>) -> anyhow::Result<()> {
    let said = tool(cluster, "org.apache.kafka.tools.TopicCommand", &["--describe", "--topic", topic])?;
    let mut partitions: Vec<_> = said.lines().filter_map(described).collect();
    partitions.retain(|each| only.is_none_or(|only| each.partition == only));
    ensure!(!partitions.is_empty(), "there is no such partition of {topic}");
    let mut moves = Vec::new();
    for each in &partitions {
        if let Some(order) = order(each) {
            println!("{topic}/{}: from {} to {}", each.partition, each.leader, order[0]);
            moves.push(json!({ "topic": topic, "partition": each.partition, "replicas": order }));
        }
    }
    ensure!(!moves.is_empty(), "no partition of {topic} has a second replica in sync");
    let file = home().join("moves.json");
    let write = |value| {
        fs::write(&file, format!("{value}")).with_context(|| format!("cannot write {}", file.display()))
    };
    let name = file.display().to_string();
    // The first replica is the preferred leader.
    write(json!({ "version": 1, "partitions": moves }))?;
    let reassign = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    tool(cluster, reassign, &["--execute", "--reassignment-json-file", &name])?;
    write(json!({ "partitions": moves }))?;
    let elect = ["--election-type", "PREFERRED", "--path-to-json-file", &name];
    tool(cluster, "org.apache.kafka.tools.LeaderElectionCommand", &elect)?;
    Ok(())
}

/// The replicas, behind the one in sync that comes after the leader.
fn order(each: &Described) -> Option<Vec<i32>> {
    let at = each.replicas.iter().position(|replica| *replica == each.leader)?;
    let turned: Vec<_> = each.replicas[at + 1..].iter().chain(&each.replicas[..=at]).copied().collect();
    let next = turned.iter().position(|id| *id != each.leader && each.in_sync.contains(id))?;
    Some(turned[next..].iter().chain(&turned[..next]).copied().collect())
}

/// Reads `Topic: t  TopicId: ..  Partition: 0  Leader: 1  Replicas: 1,2,3  Isr: 1,2,3 ..`, with tabs between.
fn described(line: &str) -> Option<Described> {
    let field = |name: &str| line.split('\t').find_map(|part| part.trim().strip_prefix(name)).map(str::trim);
    let ids = |text: &str| text.split(',').map(|id| id.trim().parse().ok()).collect::<Option<Vec<i32>>>();
    Some(Described {
        partition: field("Partition:")?.parse().ok()?,
        leader: field("Leader:")?.parse().ok()?,
        replicas: ids(field("Replicas:")?)?,
        in_sync: ids(field("Isr:")?)?,
    })
}

fn tool(cluster: &Cluster, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut java = broker::java(class);
    let output = java.arg("--bootstrap-server").arg(cluster.direct()).args(arguments).output();
    let output = output.context("cannot run java")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed =
        || format!("{class}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), failed());
    Ok(said.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the leader stays, or goes to a replica that is behind.
    #[test]
    fn the_next_replica_in_sync_leads() {
        let line = "\tTopic: t\tTopicId: x\tPartition: 3\tLeader: 2\tReplicas: 2,3,1\tIsr: 1,2\tElr: \t";
        let each = described(line).unwrap();
        let read = Described { partition: 3, leader: 2, replicas: vec![2, 3, 1], in_sync: vec![1, 2] };
        assert_eq!(each, read);
        assert_eq!(order(&each), Some(vec![1, 2, 3]));
        assert_eq!(order(&Described { in_sync: vec![2], ..each }), None);
        assert_eq!(described("Topic: t\tTopicId: x\tPartitionCount: 1\tReplicationFactor: 3"), None);
    }
}
