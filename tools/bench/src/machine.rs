//! Where it was measured.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::Instant,
};

use serde::Serialize;

use crate::estimate::median;

/// What the figures depend on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The commit, with `+` where files are changed.
    pub commit: String,
    /// The compiler.
    pub rustc: String,
    /// The linked SQLite.
    pub sqlite: String,
    /// The kernel.
    pub kernel: String,
    /// The processor.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// The median time of fdatasync after a write of 4 KiB, in microseconds.
    pub sync_micros: f64,
}

impl Machine {
    /// Looks, and measures the disk of `dir`.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn look(dir: &Path) -> anyhow::Result<Self> {
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processor.lines().find_map(|line| line.strip_prefix("model name"));
        Ok(Self {
            commit: format!("{commit}{}", if changed.is_empty() { "" } else { "+" }),
            rustc: output("rustc", &["--version"]),
            sqlite: aqueduct::rusqlite::version().to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            processor: model.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            sync_micros: sync_micros(dir)?,
        })
    }
}

/// What a command says, or nothing where it is not there.
fn output(program: &str, arguments: &[&str]) -> String {
    let said = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    said.map_or_else(|_| "unknown".to_owned(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn sync_micros(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("sync.probe");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let mut times = Vec::new();
    for page in 0..200_u64 {
        file.write_all_at(&[0x5a; 4_096], page * 4_096)?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    Ok(median(&times))
}
