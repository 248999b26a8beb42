//! What is known of the cluster between two commands: ports and process ids.

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{broker::Life, secure};
use crate::run;

/// Where the cluster is that is meant now, where it is not the one of everyday.
static ASIDE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From here on, the cluster is another one: that which a developer uses is left alone.
pub(super) fn step_aside(folder: &Path) {
    *ASIDE.lock().unwrap_or_else(PoisonError::into_inner) = Some(run::root().join(folder));
}

/// Where the cluster is.
pub(super) fn home() -> PathBuf {
    ASIDE.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(shared)
}

/// Where all clusters have their jars from.
pub(super) fn shared() -> PathBuf {
    run::target().join("kafka")
}

/// Where the brokers' data is.
pub(super) fn nodes() -> PathBuf {
    home().join("nodes")
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(super) id: String,
    pub(super) brokers: Vec<Broker>,
}

#[derive(Debug)]
pub(super) struct Broker {
    /// Its node id, from 1.
    pub(super) id: u16,
    pub(super) port: u16,
    pub(super) controller_port: u16,
    /// Where it listens in truth, where a proxy has its port.
    pub(super) behind: Option<Behind>,
    /// Those of the listeners with encryption, where there are any.
    pub(super) secure_ports: Option<SecurePorts>,
    /// Its process, when it was last started.
    pub(super) pid: Option<i32>,
}

/// A broker behind a proxy, which other brokers, and whoever watches, do not go through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behind {
    /// Where the proxy leads.
    pub(super) port: u16,
    /// Where other brokers and observers connect.
    pub(super) direct: u16,
}

/// What listeners brokers have beside the plain one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Listening {
    pub(super) secure: bool,
    pub(super) proxied: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SecurePorts {
    pub(super) tls: u16,
    pub(super) mutual: u16,
    pub(super) scram: u16,
}

impl Cluster {
    pub(super) fn new(brokers: u16, port: Option<u16>, listening: Listening) -> anyhow::Result<Self> {
        // Held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        let mut free = |wanted: u16| -> std::io::Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", wanted))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let first = match port {
            Some(port) => free(port).with_context(|| format!("port {port} is in use"))?,
            None => free(9092).or_else(|_| free(0))?,
        };
        let mut all = Vec::new();
        for id in 1..=brokers {
            let port = if id == 1 { first } else { free(0)? };
            let controller_port = free(0)?;
            let secure_ports = if listening.secure {
                Some(SecurePorts { tls: free(0)?, mutual: free(0)?, scram: free(0)? })
            } else {
                None
            };
            let behind =
                if listening.proxied { Some(Behind { port: free(0)?, direct: free(0)? }) } else { None };
            all.push(Broker { id, port, controller_port, behind, secure_ports, pid: None });
        }
        Ok(Self { id: random_id(), brokers: all })
    }

    pub(super) fn load() -> anyhow::Result<Self> {
        Self::load_if_any()?.context("there is no cluster; start one with `cargo xtask kafka up`")
    }

    pub(super) fn load_if_any() -> anyhow::Result<Option<Self>> {
        let file = file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let value = serde_json::from_str(&text).ok();
        let cluster = value.as_ref().and_then(Self::from_json);
        cluster.map(Some).with_context(|| format!("{} is damaged; remove it", file.display()))
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |broker: &Value, name: &str| u16::try_from(broker.get(name)?.as_u64()?).ok();
        let brokers = value.get("brokers")?.as_array()?.iter().map(|broker| {
            Some(Broker {
                id: number(broker, "id")?,
                port: number(broker, "port")?,
                controller_port: number(broker, "controller_port")?,
                behind: match broker.get("behind") {
                    None | Some(Value::Null) => None,
                    Some(ports) => {
                        Some(Behind { port: number(ports, "port")?, direct: number(ports, "direct")? })
                    }
                },
                secure_ports: match broker.get("secure_ports") {
                    None | Some(Value::Null) => None,
                    Some(ports) => Some(SecurePorts {
                        tls: number(ports, "tls")?,
                        mutual: number(ports, "mutual")?,
                        scram: number(ports, "scram")?,
                    }),
                },
                pid: broker.get("pid")?.as_i64().and_then(|pid| i32::try_from(pid).ok()),
            })
        });
        Some(Self { id: value.get("id")?.as_str()?.to_owned(), brokers: brokers.collect::<Option<_>>()? })
    }

    pub(super) fn save(&self) -> anyhow::Result<()> {
        let brokers: Vec<_> = self
            .brokers
            .iter()
            .map(|broker| {
                let secure = broker
                    .secure_ports
                    .map(|ports| json!({ "tls": ports.tls, "mutual": ports.mutual, "scram": ports.scram }));
                let behind = broker.behind.map(|ports| json!({ "port": ports.port, "direct": ports.direct }));
                json!({
                    "id": broker.id, "port": broker.port, "controller_port": broker.controller_port,
                    "behind": behind, "secure_ports": secure, "pid": broker.pid,
                })
            })
            .collect();
        let secure: serde_json::Map<_, _> =
            secure::urls(self).into_iter().map(|(name, url)| (name.to_owned(), url.into())).collect();
        let text = json!({ "id": self.id, "url": self.url(), "secure": secure, "brokers": brokers });
        fs::create_dir_all(home()).with_context(|| format!("cannot make {}", home().display()))?;
        fs::write(file(), format!("{text:#}\n")).with_context(|| format!("cannot write {}", file().display()))
    }

    /// What a client is given.
    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.addresses(|broker| broker.port))
    }

    /// Where the brokers are for who does not go through a proxy, as Kafka's tools take it.
    pub(super) fn direct(&self) -> String {
        self.addresses(|broker| broker.behind.map_or(broker.port, |behind| behind.direct))
    }

    fn addresses(&self, port: impl Fn(&Broker) -> u16) -> String {
        let addresses = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", port(broker)));
        addresses.collect::<Vec<_>>().join(",")
    }

    pub(super) fn is_secure(&self) -> bool {
        self.brokers.iter().all(|broker| broker.secure_ports.is_some())
    }

    pub(super) fn broker(&self, id: u16) -> anyhow::Result<&Broker> {
        let count = self.brokers.len();
        let found = self.brokers.iter().find(|broker| broker.id == id);
        found.with_context(|| format!("there is no broker {id}: brokers are 1 to {count}"))
    }

    pub(super) fn running(&self) -> Vec<u16> {
        let running = self.brokers.iter().filter(|broker| broker.life() != Life::Dead);
        running.map(|broker| broker.id).collect()
    }

    /// Sends a signal to a broker that must be alive.
    pub(super) fn signal(&self, id: u16, signal: Signal) -> anyhow::Result<()> {
        let broker = self.broker(id)?;
        ensure!(broker.life() != Life::Dead, "broker {id} does not run");
        broker.signal(signal)
    }
}

fn file() -> PathBuf {
    home().join("cluster.json")
}

/// Held while what is known of the cluster is changed: commands may run at one time.
pub(super) fn lock() -> anyhow::Result<File> {
    fs::create_dir_all(home()).with_context(|| format!("cannot make {}", home().display()))?;
    let path = home().join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A cluster id as Kafka has them: 16 bytes in URL-safe base64.
fn random_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let [high, low] = [0, 1].map(|n| RandomState::new().hash_one(n));
    let mut rest = (u128::from(high) << 64) | u128::from(low);
    let mut digits = Vec::with_capacity(22);
    // 21 digits of six bits, then the two bits that are left.
    for _ in 0..22 {
        digits.push(DIGITS[usize::try_from(rest >> 122).unwrap_or(0)]);
        rest <<= 6;
    }
    // A leading dash would be taken for an option.
    if digits[0] == b'-' {
        digits[0] = b'A';
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One run of all tests has one cluster after another. Red when the first folder stays.
    #[test]
    fn the_newest_cluster_is_meant() {
        for name in ["target/a", "target/b"] {
            step_aside(Path::new(name));
            assert_eq!(home(), run::root().join(name));
        }
    }
}
