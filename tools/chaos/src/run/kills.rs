//! Two writers, killed at random moments; a million events acknowledged.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use checker::{History, Observation, Outcome, Rules};

use super::{
    Judged,
    roster::Slot,
    stage::{Stage, rules},
};
use crate::random::Random;

const KILLS: u64 = 200;
const EVENTS: u64 = 1_000_000;
const BATCH: u64 = 500;

pub(crate) fn run(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    let mut stage = Stage::new(dir)?;
    let url = stage.url("partitions=8");
    let words = format!("--batch {BATCH} --in-flight 4 --repeat");
    let mut writers: Vec<_> =
        ["w1", "w2"].map(|name| (Slot::publisher(name, random.next(), &words), Instant::now())).into();
    for (writer, _) in &mut writers {
        writer.start(&stage, &url)?;
    }
    let mut kills = 0;
    while kills < KILLS {
        for (writer, due) in &mut writers {
            if kills < KILLS && *due <= Instant::now() {
                // From the first milliseconds on: opening the log is a moment too.
                *due = Instant::now() + random.millis(5, 450);
                writer.check()?;
                let fault = writer.kill(&mut stage)?;
                kills += 1;
                writer.start(&stage, &url)?;
                stage.healed(fault);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    for (writer, _) in &mut writers {
        let fault = writer.kill(&mut stage)?;
        stage.healed(fault);
    }
    let killed = acknowledged(&stage)?;
    let rest = EVENTS.saturating_sub(killed).div_ceil(2 * BATCH) * BATCH;
    if rest > 0 {
        for (name, seed) in [("w3", random.next()), ("w4", random.next())] {
            let words = format!("--batch {BATCH} --in-flight 4 --events {rest}");
            let mut writer = Slot::publisher(name, seed, &words);
            writer.start(&stage, &url)?;
            writers.push((writer, Instant::now()));
        }
        for (writer, _) in &mut writers {
            if let Some(process) = &mut writer.process {
                process.wait(Duration::from_secs(300))?;
            }
            writer.drained(&stage)?;
        }
    }
    stage.read()?;
    let at_least = [("acknowledged".to_owned(), EVENTS), ("fault kill".to_owned(), KILLS)].into();
    // A killed writer knows nothing of what was under way: that is most of its short life.
    let report = stage.judge(&Rules { at_least, ok_inside: 0, ..rules(&[]) })?;
    let note = format!("{kills} kills; {killed} events were acknowledged while there were kills");
    Ok(Judged { report, note })
}

fn acknowledged(stage: &Stage) -> anyhow::Result<u64> {
    let mut history = History::new();
    history.read_folder(&stage.seen)?;
    let ok = history.lines().iter().filter_map(|line| match &line.saw {
        Observation::Complete { outcome: Outcome::Ok, places, .. } => Some(places.len()),
        _ => None,
    });
    Ok(u64::try_from(ok.sum::<usize>())?)
}
