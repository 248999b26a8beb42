//! The line that shows how it goes: baskets per second, the date in the shop, the lag of each subscription.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aqueduct::{Status, Timestamp};
use tokio::time::{Instant, interval};

use crate::feed::Fed;

/// How often a line is written where it cannot be written over.
const LINE_EVERY: u64 = 5;

/// Shows progress for ever; dropped, it leaves the line as it is.
pub(crate) async fn show(fed: Arc<Fed>, apps: Vec<Status>) {
    let terminal = io::stderr().is_terminal();
    let mut tick = interval(Duration::from_secs(1));
    let mut last = (Instant::now(), fed.baskets.load(Ordering::Relaxed));
    tick.tick().await;
    for second in 1_u64.. {
        tick.tick().await;
        if !terminal && second % LINE_EVERY != 0 {
            continue;
        }
        let now = (Instant::now(), fed.baskets.load(Ordering::Relaxed));
        let millis = u64::try_from((now.0 - last.0).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = (now.1 - last.1).saturating_mul(1_000) / millis;
        last = now;
        let line = line(&fed, rate, &apps).await;
        let end = if terminal { "\x1b[K\r" } else { "\n" };
        let mut out = io::stderr().lock();
        if write!(out, "{line}{end}").and_then(|()| out.flush()).is_err() {
            // Nobody reads it any more; the shop goes on.
            return;
        }
    }
}

async fn line(fed: &Fed, rate: u64, apps: &[Status]) -> String {
    let time = Timestamp::from_micros(fed.time.load(Ordering::Relaxed)).to_string();
    let date = time.get(..16).unwrap_or(&time).replace('T', " ");
    let mut line = format!("{date}  {rate} baskets/s  {} baskets", fed.baskets.load(Ordering::Relaxed));
    for app in apps {
        match app.lag().await {
            Ok(lags) => {
                for lag in lags {
                    line.push_str(&format!("  {} lag {}", lag.subscription, lag.records));
                }
            }
            Err(error) => line.push_str(&format!("  {}: {error}", app.name())),
        }
        let readiness = app.readiness();
        if let Some(reason) = readiness.reasons.first() {
            line.push_str(&format!("  [{reason}]"));
        }
    }
    line
}
