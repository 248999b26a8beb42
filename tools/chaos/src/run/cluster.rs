//! The cluster that `cargo xtask kafka` runs for us: where its brokers are, and how one is harmed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// What `cluster.json` says of a broker.
#[derive(Debug, Deserialize)]
struct Described {
    id: u16,
    port: u16,
    behind: Option<Behind>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Behind {
    port: u16,
    direct: u16,
}

/// A broker behind our proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broker {
    pub(crate) id: u16,
    /// The port that clients are told, which the proxy takes.
    pub(crate) port: u16,
    /// Where the proxy leads.
    pub(crate) behind: u16,
    /// The port for other brokers and for observers.
    pub(crate) direct: u16,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    xtask: PathBuf,
    pub(crate) brokers: Vec<Broker>,
}

impl Cluster {
    /// The cluster in `folder`, which `xtask` runs.
    pub(crate) fn load(folder: &Path, xtask: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct File {
            brokers: Vec<Described>,
        }
        let path = folder.join("cluster.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: File = serde_json::from_slice(&text)?;
        let brokers = file.brokers.into_iter().map(|Described { id, port, behind }| {
            let Behind { port: behind, direct } = behind.context("the brokers leave no port to a proxy")?;
            Ok(Broker { id, port, behind, direct })
        });
        let brokers = brokers.collect::<anyhow::Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), xtask: xtask.to_owned(), brokers })
    }

    /// Where the brokers are, by one of their ports.
    pub(crate) fn addresses(&self, port: impl Fn(&Broker) -> u16) -> String {
        let addresses = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", port(broker)));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Does something to a broker, and waits for it.
    pub(crate) fn tell(&self, words: &str) -> anyhow::Result<()> {
        let output = self.command(words).output().context("cannot run xtask")?;
        ensure!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Begins something that takes longer.
    pub(crate) fn begin(&self, words: &str) -> anyhow::Result<Child> {
        self.command(words).stdout(Stdio::null()).spawn().context("cannot run xtask")
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.xtask);
        command.args(["kafka", "--cluster"]).arg(&self.folder).args(words.split_whitespace());
        command.stdin(Stdio::null());
        command
    }
}
