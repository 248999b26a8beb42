#![allow(warnings)]
use std::collections::BTreeMap;
use shop_events::{BasketId,HouseholdId,Sku,StoreId,till::*};
use shop_testing::*;
#[tokio::main]
async fn main() {
    let text = std::fs::read_to_string(std::env::args().nth(1).unwrap()).unwrap();
    let which = std::env::args().nth(2).unwrap();
    let mut baskets: BTreeMap<u64, BasketCheckedOut> = BTreeMap::new();
    let mut order = vec![];
    for l in text.lines().skip(1) {
        let f: Vec<&str> = l.split(',').collect();
        let q: u32 = f[5].parse().unwrap();
        if q == 0 || q > 1000 { continue; }
        let id: u64 = f[0].parse().unwrap();
        let day: i64 = f[3][8..10].parse().unwrap();
        let b = baskets.entry(id).or_insert_with(|| { order.push(id); BasketCheckedOut { basket: BasketId(id), store: StoreId(f[1].parse().unwrap()), household: HouseholdId(f[2].parse().unwrap()), at: aqueduct::Timestamp::from_micros((17167 + day) * 86_400_000_000), lines: vec![] } });
        b.lines.push(Line { sku: Sku(f[4].parse().unwrap()), quantity: q, paid_cents: Some(1) });
    }
    let town = Town::new().await;
    let t = std::time::Instant::now();
    for c in order.chunks(500) { town.bus.publish_all(c.iter().map(|i| &baskets[i])).await.unwrap(); }
    println!("published {} in {:?}", order.len(), t.elapsed());
    let cpu = || { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = s.split(' ').collect(); (f[13].parse::<u64>().unwrap() + f[14].parse::<u64>().unwrap()) as f64 / 100.0 };
    let (t, c) = (std::time::Instant::now(), cpu());
    let mut running = vec![];
    let idb = inventory::open(town.file("inventory.db")).await.unwrap();
    let rdb = recommendation::open(town.file("recommendation.db")).await.unwrap();
    if which.contains('i') { running.push(Running::start(inventory::app(&town.bus, &idb))); }
    if which.contains('r') { running.push(Running::start(recommendation::app(&town.bus, &rdb))); }
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let s: Vec<_> = running.iter().map(|r| r.status().clone()).collect();
        if aqueduct::caught_up(&s).await.unwrap() { break; }
    }
    println!("wall {:?} cpu {}", t.elapsed(), cpu() - c);
    println!("{:?}\n{:?}", inventory::summary(&idb).await.unwrap(), recommendation::summary(&rdb).await.unwrap());
    for f in ["inventory.db", "recommendation.db"] { println!("{f} {} MB", std::fs::metadata(town.file(f)).unwrap().len() / 1_000_000); }
    for f in ["inventory.db", "recommendation.db"] { std::fs::copy(town.file(f), format!("/tmp/{f}")).unwrap(); }
    for r in running { r.stop().await; }
}
