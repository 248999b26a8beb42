//! An error at the N-th sync: after it, that process is never told `Ok` again; another one opens the log anew.

use std::{fs, path::Path, process::Command, time::Duration};

use checker::{Kind, Rules, Verdict};

use super::{
    Judged, full, merge,
    stage::{Stage, rules},
};
use crate::random::Random;

const LAST: u64 = 24;

pub(crate) fn run(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    fs::create_dir_all(Stage::new(dir)?.seen)?;
    if !Command::new("strace").arg("--version").output().is_ok_and(|output| output.status.success()) {
        // Nothing is claimed; the caller sees why.
        let note = "SKIPPED: strace is not installed, so no sync can be made to fail".to_owned();
        return Ok(Judged { report: checker::Report::default(), note });
    }
    let mut reports = Vec::new();
    let (mut reached, mut at_open, mut passed_over) = (0, 0, 0);
    for number in 1..=LAST {
        let name = format!("sync-{number}");
        let mut stage = Stage::new(&dir.join(&name))?;
        let seed = random.next();
        // A log that is there already: the first syncs are then those of opening and of the first commits.
        full::writer(&stage, &stage.url("partitions=4"), 1, seed, "--events 100 --keys 16")?
            .wait(Duration::from_secs(60))?;
        let fault = stage.fault("sync", &number.to_string());
        let trace = stage.dir.join("strace.out");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-o"]).arg(&trace);
        command.arg("-e").arg(format!("inject=fsync,fdatasync:error=EIO:when={number}"));
        command.arg(std::env::current_exe()?).args(["publisher", "--source", "w", "--incarnation", "2"]);
        command.args(["--seed", &seed.to_string(), "--log", &stage.url("partitions=4"), "--out"]);
        command
            .arg(&stage.seen)
            .args("--batch 1 --in-flight 4 --failures 25 --events 600 --keys 16".split(' '));
        let mut writer = stage.start(command, "w.2")?;
        writer.wait(Duration::from_secs(60))?;
        stage.healed(fault);
        let traced = fs::read_to_string(&trace)?;
        let injected = traced.contains("(INJECTED)");
        let harmless = harmless(&traced, &stage.dir);
        let opened = stage.seen.join("w.2.jsonl").metadata().is_ok_and(|file| file.len() > 0);
        let mut again = full::writer(&stage, &stage.url("partitions=4"), 3, seed, "--events 100 --keys 16")?;
        again.wait(Duration::from_secs(60))?;
        let said = again.printed()?;
        stage.read()?;
        let at_least = [("acknowledged".to_owned(), 200)].into();
        let mut report = stage.judge(&Rules { poisoned: true, at_least, ok_inside: 0, ..rules(&[]) })?;
        if injected && opened && !harmless && report.counts["unknown"] + report.counts["failed"] == 0 {
            let what = format!("sync {number} failed, and no publish did: {}", writer.printed()?);
            report.verdicts.push(Verdict { kind: Kind::OkAfterFailure, what });
        }
        if !said.is_empty() {
            let what = format!("opened anew it still failed: {said}");
            report.verdicts.push(Verdict { kind: Kind::Lost, what });
        }
        reached += u64::from(injected);
        at_open += u64::from(injected && !opened);
        passed_over += u64::from(harmless);
        reports.push((name, report));
    }
    let mut report = merge(reports);
    if reached < LAST / 2 {
        report.void = Some(format!("{reached} of {LAST} syncs were reached"));
    }
    let note = format!(
        "{reached} of {LAST} syncs failed, {at_open} of them while the log was opened; {passed_over} were SQLite's own of a \
         folder that was synced before"
    );
    Ok(Judged { report, note })
}

/// Whether the sync that failed was one of the folder after an earlier one of it that did not: SQLite passes over such a
/// failure, and the files' names are durable all the same.
fn harmless(traced: &str, folder: &Path) -> bool {
    let of_folder = format!("<{}>", folder.display());
    let mut synced = false;
    for line in traced.lines().filter(|line| line.contains(&of_folder)) {
        if line.contains("(INJECTED)") {
            return synced;
        }
        synced |= line.ends_with("= 0");
    }
    false
}
