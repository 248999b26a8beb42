//! The shop at full speed: events per second, CPU seconds per event, peak memory.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;

use crate::run::{self, command};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The sales; without it, the sample.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where the log and the databases are kept.
    #[arg(long, default_value = "target/measure")]
    state: PathBuf,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let shop = run::shop()?;
    let state = run::root().join(&options.state);
    if state.join("log.db").exists() {
        fs::remove_dir_all(&state)?;
    }
    let mut command = command(&shop.display().to_string());
    command.args(["--speed", "max", "--until-end", "--listen", "127.0.0.1:0", "--state"]).arg(&state);
    if let Some(data) = &options.data {
        command.arg("--data").arg(std::path::absolute(data)?);
    }
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start the shop")?;
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let (mut peak, mut cpu, mut written) = (0, 0.0, 0);
    let status = loop {
        // The files are gone once the process has ended; the last reading counts.
        if let Ok(text) = fs::read_to_string(process.join("status")) {
            peak = field(&text, "VmHWM:").unwrap_or(peak).max(peak);
        }
        if let Ok(text) = fs::read_to_string(process.join("stat")) {
            cpu = cpu_seconds(&text).unwrap_or(cpu);
        }
        if let Ok(text) = fs::read_to_string(process.join("io")) {
            written = field(&text, "write_bytes:").unwrap_or(written);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.success(), "the shop failed: {status}");
    let wall = started.elapsed().as_secs_f64();
    let output = run::command("python3 -B tools/verify/count.py").arg(state.join("log.db")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    println!("{events:.0} events in the log, {wall:.1} s, {:.0} events/s", events / wall);
    println!("{cpu:.1} CPU s, {:.1} CPU µs per event, peak memory {} MiB", cpu / events * 1e6, peak / 1_024);
    println!("{} MiB written to disk, {:.1} KiB per event", written >> 20, written as f64 / events / 1_024.0);
    Ok(())
}

/// A number in a file of `/proc/PID`; in `status` it is in kB.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// User and system time in `/proc/PID/stat`, in ticks of 10 ms.
fn cpu_seconds(text: &str) -> Option<f64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}
