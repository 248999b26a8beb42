//! Files that are not what was written: bytes flipped, cut off, an old copy. The log says so, or is not opened; it
//! never goes on as if nothing were.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use checker::Rules;

use super::{
    Judged, full, merge,
    stage::{Stage, rules},
};
use crate::{event::MOVES, random::Random};

const TRIALS: u64 = 49;
const COPIES: u64 = 12;

/// The length of the text with which every database of SQLite begins.
const MAGIC: u64 = 16;

/// What is done to the files.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// In the first bytes, which say what kind of file it is: it cannot be opened.
    FlipHeader,
    /// In a topic's name.
    FlipName,
    FlipDatabase,
    CutDatabase,
    FlipWal,
    CutWal,
    NoWal,
}

const HARMS: [Harm; 7] = [
    Harm::FlipHeader,
    Harm::FlipName,
    Harm::FlipDatabase,
    Harm::CutDatabase,
    Harm::FlipWal,
    Harm::CutWal,
    Harm::NoWal,
];

/// Flips and cuts bytes of a log whose writer was killed, so that it has a write-ahead log too.
pub(crate) fn flipped(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    fs::create_dir_all(Stage::new(dir)?.seen)?;
    let source = Stage::new(&dir.join("source"))?;
    let seed = random.next();
    let url = source.url("partitions=4");
    // The first writer ends well, so that the database holds something; the second one leaves its log behind.
    full::writer(&source, &url, 1, seed, "--events 2000 --batch 20 --keys 16")?
        .wait(Duration::from_secs(60))?;
    let mut writer = full::writer(&source, &url, 2, seed, "--batch 20 --keys 16 --rate 200")?;
    std::thread::sleep(Duration::from_millis(700));
    anyhow::ensure!(writer.ended()?.is_none(), "the writer ended: {}", writer.printed()?);
    writer.kill()?;
    let mut reports = Vec::new();
    let mut tally = Tally::default();
    for trial in 0..TRIALS {
        let harm = HARMS[usize::try_from(trial)? % HARMS.len()];
        let name = format!("{harm:?}-{trial}");
        let stage = Stage::new(&dir.join(&name))?;
        copy(&source, &stage)?;
        let what = harmed(&stage, harm, &mut random)?;
        reports.push((format!("{name} ({what})"), tally.inspect(&stage)?));
    }
    let mut report = merge(reports);
    if tally.reported == 0 || tally.refused == 0 {
        report.void = Some(format!("{tally:?}: each was to happen"));
    }
    Ok(Judged { report, note: format!("{TRIALS} harmed files: {tally:?}") })
}

/// Puts a copy of the database in the place of the newer one, as a restore does; the files beside it stay.
pub(crate) fn old_copy(dir: &Path, mut random: Random) -> anyhow::Result<Judged> {
    fs::create_dir_all(Stage::new(dir)?.seen)?;
    let mut reports = Vec::new();
    let mut tally = Tally::default();
    for trial in 0..COPIES {
        let name = format!("copy-{trial}");
        let stage = Stage::new(&dir.join(&name))?;
        let (seed, url) = (random.next(), stage.url("partitions=4"));
        let before = 50 + random.below(400);
        let words = format!("--events {before} --batch 10 --keys 16");
        full::writer(&stage, &url, 1, seed, &words)?.wait(Duration::from_secs(60))?;
        let old = stage.dir.join("old.db");
        fs::copy(&stage.log, &old)?;
        let mut writer = full::writer(&stage, &url, 2, seed, "--batch 10 --keys 16 --rate 300")?;
        std::thread::sleep(random.millis(100, 500));
        anyhow::ensure!(writer.ended()?.is_none(), "the writer ended: {}", writer.printed()?);
        writer.kill()?;
        for beside in ["-wal", "-shm"] {
            remove(&beside_of(&stage.log, beside))?;
        }
        fs::rename(&old, &stage.log)?;
        // It goes on: what is new must not take the offsets of what is gone.
        full::writer(&stage, &url, 3, seed, "--events 100 --batch 10 --keys 16")?
            .wait(Duration::from_secs(60))?;
        reports.push((name, tally.inspect(&stage)?));
    }
    let mut report = merge(reports);
    if tally.reported < COPIES / 2 {
        report.void = Some(format!("{tally:?}: most copies were to lose something"));
    }
    Ok(Judged { report, note: format!("{COPIES} old copies: {tally:?}") })
}

/// What the log made of harmed files.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    reported: u64,
    unharmed: u64,
}

impl Tally {
    /// Opens and reads the log as a service would. What it refused to open proves itself.
    fn inspect(&mut self, stage: &Stage) -> anyhow::Result<checker::Report> {
        let mut command = stage.command("inspect")?;
        command.arg("--log").arg(stage.url("partitions=4")).arg("--out").arg(stage.seen.join("read.jsonl"));
        let mut inspector = stage.start(command, "inspector")?;
        let status = inspector.wait(Duration::from_secs(60))?;
        if !status.success() {
            let said = inspector.printed()?;
            anyhow::ensure!(status.code() == Some(1) && !said.contains("panicked"), "{status}: {said}");
            self.refused += 1;
            return Ok(checker::Report::default());
        }
        // What the log itself lists as lost, by plain SQL.
        let gone = stage.seen.join("gone.jsonl");
        let read = stage.checker()?.arg("gone").arg(&stage.log).arg("--out").arg(&gone).output()?;
        let lists = read.status.success() && fs::metadata(&gone)?.len() > 0;
        let printed = inspector.printed()?;
        if lists || !printed.is_empty() {
            self.reported += 1;
        } else {
            self.unharmed += 1;
        }
        stage.judge(&Rules { ok_outside: 0, ok_inside: 0, ..rules(&[]) })
    }
}

fn harmed(stage: &Stage, harm: Harm, random: &mut Random) -> anyhow::Result<String> {
    let wal = beside_of(&stage.log, "-wal");
    match harm {
        Harm::FlipHeader => {
            // The first page may stand in the write-ahead log too, which would hide the harm.
            remove(&wal)?;
            flip_below(&stage.log, MAGIC, random)
        }
        Harm::FlipName => {
            let bytes = fs::read(&stage.log)?;
            let name = MOVES.as_bytes();
            let named = bytes.windows(name.len()).enumerate().filter(|(_, found)| *found == name);
            let places: Vec<_> = named.map(|(at, _)| at).collect();
            anyhow::ensure!(!places.is_empty(), "{} names no topic", stage.log.display());
            let at = places[usize::try_from(random.below(u64::try_from(places.len())?))?];
            flip_at(&stage.log, u64::try_from(at)?, random)
        }
        Harm::FlipDatabase => flip(&stage.log, random),
        Harm::CutDatabase => cut(&stage.log, random),
        Harm::FlipWal => flip(&wal, random),
        Harm::CutWal => cut(&wal, random),
        Harm::NoWal => {
            remove(&wal)?;
            remove(&beside_of(&stage.log, "-shm"))?;
            Ok("gone".to_owned())
        }
    }
}

fn flip(path: &Path, random: &mut Random) -> anyhow::Result<String> {
    flip_below(path, u64::MAX, random)
}

fn flip_below(path: &Path, below: u64, random: &mut Random) -> anyhow::Result<String> {
    let at = random.below(path.metadata()?.len().min(below));
    flip_at(path, at, random)
}

fn flip_at(path: &Path, at: u64, random: &mut Random) -> anyhow::Result<String> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 1 << random.below(8);
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&byte)?;
    Ok(format!("byte {at}"))
}

fn cut(path: &Path, random: &mut Random) -> anyhow::Result<String> {
    let file = OpenOptions::new().write(true).open(path)?;
    let length = random.below(file.metadata()?.len());
    file.set_len(length)?;
    Ok(format!("cut to {length}"))
}

fn beside_of(log: &Path, ending: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Copies the log with all beside it, and what its writers did.
fn copy(from: &Stage, to: &Stage) -> anyhow::Result<()> {
    for (source, target) in [(&from.dir, &to.dir), (&from.seen, &to.seen)] {
        for entry in fs::read_dir(source)? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                fs::copy(&path, target.join(name))?;
            }
        }
    }
    Ok(())
}
