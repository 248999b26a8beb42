use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// What the shop promises for its end, and for saying no.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A folder for the shop's files.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// Thirty baskets, one a minute, two pieces each; and two lines that are set aside.
    pub(crate) fn sales(&self) -> String {
        let mut rows = HEADER.to_owned();
        for basket in 0..30 {
            let (store, household) = (300 + basket % 7, basket % 5);
            let at = format!("2017-01-02T10:{basket:02}:00Z");
            for product in [1, 2 + basket % 3] {
                rows.push_str(&format!("{},{store},{household},{at},{product},1,99\n", 100 + basket));
            }
            if basket == 9 {
                rows.push_str(&format!("109,{store},{household},{at},7,0,0\n"));
                rows.push_str(&format!("109,{store},{household},{at},8,1001,50\n"));
            }
        }
        self.write("sales.csv", rows)
    }

    /// The shop on this folder, at no port in particular.
    pub(crate) fn shop(&self, args: &[&str]) -> Command {
        let mut shop = bare_shop();
        shop.args(["--state", &self.text("state"), "--listen", "127.0.0.1:0"]).args(args);
        shop
    }

    /// Plays `sales` to the end, as fast as it goes; what stands in the report.
    pub(crate) fn play(&self, sales: &str) -> Value {
        let report = self.text("report.json");
        let args = ["--data", sales, "--speed", "max", "--until-end", "--report", &report];
        let ended = Running::start(&mut self.shop(&args)).end(Duration::from_secs(60));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap(), report);
        report
    }
}

pub(crate) const HEADER: &str =
    "basket_id,store_id,household_id,timestamp,product_id,quantity,sales_value_cents\n";

/// The shop, without settings of whoever runs the tests.
pub(crate) fn bare_shop() -> Command {
    let mut shop = Command::new(env!("CARGO_BIN_EXE_shop"));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AQUEDUCT_")) {
        shop.env_remove(name);
    }
    shop.env("RUST_BACKTRACE", "0").env_remove("RUST_LIB_BACKTRACE");
    shop
}

/// A shop under way; dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: String,
    stdout: Option<JoinHandle<String>>,
}

pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn start(shop: &mut Command) -> Self {
        let mut child =
            shop.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stderr, mut stdout) = (child.stderr.take().unwrap(), child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                // Nobody may be left to read it.
                let _ = send.send(line.unwrap());
            }
        });
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        Self { child, lines, stderr: String::new(), stdout: Some(stdout) }
    }

    /// Waits for a line on standard error.
    pub(crate) fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("no such line in:\n{}", self.stderr) };
            self.stderr.push_str(&line);
            self.stderr.push('\n');
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Where its HTTP side listens.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let line = self.line(|line| line.starts_with("http://"));
        line.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap()
    }

    pub(crate) fn interrupt(&self) {
        let kill = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self, within: Duration) -> Ended {
        let deadline = Instant::now() + within;
        // Standard error closes when the process ends.
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.stderr.push_str(&line);
            self.stderr.push('\n');
        }
        assert!(Instant::now() < deadline, "it did not end within {within:?}:\n{}", self.stderr);
        let status: ExitStatus = self.child.wait().unwrap();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        Ended { code: status.code(), stdout, stderr: std::mem::take(&mut self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status, content type and body of a `GET`.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), kind.to_owned(), serde_json::from_str(body).unwrap())
}
