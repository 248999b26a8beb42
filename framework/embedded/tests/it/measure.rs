use crate::tools::*;
use aqueduct_core::{
    NewRecord, Record,
    log::{CommitLog, PartitionId, Start},
};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn measure() {
    let directory = tempfile::tempdir_in("/work/main/target").unwrap();
    let log = aqueduct_embedded::EmbeddedLog::open(options(directory.path()).partitions(std::env::var("AQ_PARTS").map_or(8, |v| v.parse().unwrap()))).await.unwrap();
    let producer = log.producer().await.unwrap();
    for batch in [1_000usize, 1] {
        let total: usize = if batch == 1 { 100_000 } else { 400_000 };
        let records: Vec<NewRecord> =
            (0..10_000).map(|n| keyed(&format!("key{}", n % 5000), &"x".repeat(300))).collect();
        let start = Instant::now();
        let mut receipts = std::collections::VecDeque::new();
        for b in 0..total / batch {
            let from = (b * batch) % 10_000;
            receipts.push_back(enqueue(&producer, records[from..from + batch].to_vec()));
            if receipts.len() > (32_768 / batch).max(8) {
                receipts.pop_front().unwrap().await.unwrap();
            }
        }
        for r in receipts {
            for o in r.await.unwrap() {
                o.unwrap();
            }
        }
        let t = start.elapsed().as_secs_f64();
        println!("append batch {batch}: {:.0}/s", total as f64 / t);
    }
    let start = Instant::now();
    let mut n = 0;
    for b in 0..50 {
        let _ = b;
        append(&log, vec![keyed("k", "v")]).await;
        n += 1;
    }
    println!("one at a time: {:.2} ms", start.elapsed().as_secs_f64() * 1000.0 / n as f64);
    let ends = log.end_offsets(&name("t")).await.unwrap();
    let start = Instant::now();
    let (mut count, mut bytes) = (0, 0);
    for (p, end) in ends.iter().enumerate() {
        let mut reader = log
            .cursor(&PartitionId { topic: name("t"), partition: p as i32 }, Start::Earliest)
            .await
            .unwrap();
        while reader.position() < *end {
            let batch = reader.read(1_000).await.unwrap();
            count += batch.len();
            for r in Record::all(&batch) {
                bytes += r.value().unwrap().len();
            }
        }
    }
    println!("read {count} records, {bytes} bytes: {:.0}/s", count as f64 / start.elapsed().as_secs_f64());
}
