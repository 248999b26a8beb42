//! A disk that is full, at many sizes: what does not fit is refused, and nothing acknowledged is lost.

use std::{fs, path::Path, time::Duration};

use checker::{Kind, Rules, Verdict};

use super::{
    Judged, merge,
    stage::{Process, Stage, rules},
};
use crate::random::Random;

const LEVELS: u64 = 50;

pub(crate) fn run(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    // So that the folder is known as ours.
    fs::create_dir_all(Stage::new(dir)?.seen)?;
    let mut reports = Vec::new();
    let mut refusals = 0;
    for level in 0..LEVELS {
        let name = format!("level-{level}");
        let mut stage = Stage::new(&dir.join(&name))?;
        let limit = 131_072 + level * 24_576 + random.below(24_576);
        let fault = stage.fault("full", &limit.to_string());
        let seed = random.next();
        let words = "--batch 1 --in-flight 8 --failures 12 --keys 16";
        let mut writer =
            writer(&stage, &stage.url(&format!("partitions=4&max_bytes={limit}")), 1, seed, words)?;
        writer.wait(Duration::from_secs(60))?;
        let refused = writer.printed()?.matches("max_bytes").count();
        stage.healed(fault);
        // With room again it goes on.
        let mut again = self::writer(&stage, &stage.url("partitions=4"), 2, seed, "--events 200 --keys 16")?;
        again.wait(Duration::from_secs(60))?;
        let said = again.printed()?;
        stage.read()?;
        let at_least = [("acknowledged".to_owned(), 200)].into();
        // Inside of the fault, a small disk refuses most.
        let mut report = stage.judge(&Rules { at_least, ok_inside: 0, ..rules(&[]) })?;
        refusals += refused;
        if refused == 0 {
            report.void = Some(format!("no publish was refused at {limit} bytes: {}", writer.printed()?));
        }
        if !said.is_empty() {
            let what = format!("with room again it still failed: {said}");
            report.verdicts.push(Verdict { kind: Kind::Lost, what });
        }
        reports.push((name, report));
    }
    let note = format!("{LEVELS} levels, {refusals} publishes refused by name of the limit");
    Ok(Judged { report: merge(reports), note })
}

/// A publisher of this stage.
pub(crate) fn writer(
    stage: &Stage,
    url: &str,
    incarnation: u64,
    seed: u64,
    words: &str,
) -> anyhow::Result<Process> {
    let mut command = stage.command("publisher --source w")?;
    command.args(["--incarnation", &incarnation.to_string(), "--seed", &seed.to_string(), "--log", url]);
    command.arg("--out").arg(&stage.seen).args(words.split_whitespace());
    stage.start(command, &format!("w.{incarnation}"))
}
