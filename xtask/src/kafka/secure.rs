//! The listeners with encryption: TLS, mutual TLS, and SCRAM-SHA-512 over TLS. Certificates, keys and the password are
//! made here and are good for nothing but this cluster.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::state::{Broker, Cluster, SecurePorts, home};
use crate::run::{need, quiet};

/// The user of the SCRAM listener, and the name in the client's certificate.
const USER: &str = "alice";

/// What a broker's settings say of these listeners.
#[derive(Default)]
pub(super) struct Listeners {
    /// Where they listen, each after a comma.
    pub(super) listeners: String,
    /// How they are protected, each after a comma.
    pub(super) protocols: &'static str,
    /// Lines of their own.
    pub(super) settings: String,
}

/// Where certificates, keys and the password are. They outlive the brokers' data, as those of a real cluster do.
fn folder() -> PathBuf {
    home().join("secure")
}

/// What a client is given, by the listener's name.
pub(super) fn urls(cluster: &Cluster) -> Vec<(&'static str, String)> {
    let url = |port: fn(SecurePorts) -> u16, parameters: &str| {
        let address = |broker: &Broker| Some(format!("127.0.0.1:{}", port(broker.secure_ports?)));
        let addresses: Vec<_> = cluster.brokers.iter().filter_map(address).collect();
        format!("kafka://{}?ssl.ca.location={}&{parameters}", addresses.join(","), written("ca.pem"))
    };
    if !cluster.is_secure() {
        return Vec::new();
    }
    let pair = format!(
        "security.protocol=ssl&ssl.certificate.location={}&ssl.key.location={}",
        written("client.pem"),
        written("client.key")
    );
    let user = format!(
        "security.protocol=sasl_ssl&sasl.mechanism=SCRAM-SHA-512&sasl.username={USER}&sasl.password=file:{}",
        written("password")
    );
    vec![
        ("tls", url(|ports| ports.tls, "security.protocol=ssl")),
        ("mutual", url(|ports| ports.mutual, &pair)),
        ("scram", url(|ports| ports.scram, &user)),
    ]
}

/// Where a file is, as a URL's value.
fn written(name: &str) -> String {
    let path = folder().join(name).display().to_string();
    // `%` first: the others bring it in.
    let signs = [('%', "%25"), ('&', "%26"), ('@', "%40")];
    signs.iter().fold(path, |path, (sign, code)| path.replace(*sign, code))
}

/// What the formatter is told of the user.
pub(super) fn user() -> anyhow::Result<String> {
    let file = folder().join("password");
    let password = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(format!("SCRAM-SHA-512=[name={USER},password={}]", password.trim_end()))
}

pub(super) fn listeners(ports: SecurePorts) -> Listeners {
    let SecurePorts { tls, mutual, scram } = ports;
    let (keys, ca) = (folder().join("broker.keystore.pem"), folder().join("ca.pem"));
    Listeners {
        listeners: format!(",TLS://127.0.0.1:{tls},MUTUAL://127.0.0.1:{mutual},SCRAM://127.0.0.1:{scram}"),
        protocols: ",TLS:SSL,MUTUAL:SSL,SCRAM:SASL_SSL",
        settings: format!(
            "ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
",
            keys.display(),
            ca.display()
        ),
    }
}

/// Makes what is missing.
pub(super) fn prepare() -> anyhow::Result<()> {
    need("openssl version", "openssl")?;
    let folder = folder();
    // Made last, so that an interrupted run is begun anew.
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write_secret(&folder.join("password"), &random_password()?)?;
    authority(&folder, "ca")?;
    // Trusted by nobody: what a client has that was given the wrong file.
    authority(&folder, "other-ca")?;
    certificate(&folder, "broker", "subjectAltName=IP:127.0.0.1,DNS:localhost")?;
    certificate(&folder, "client", "extendedKeyUsage=clientAuth")?;
    let part =
        |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name}"));
    write_secret(&folder.join("broker.keystore.pem"), &(part("broker.key")? + &part("broker.pem")?))?;
    File::create(&complete).with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(())
}

/// A certificate that signs others.
fn authority(folder: &Path, name: &str) -> anyhow::Result<()> {
    let mut openssl = request(folder, name, &format!("aqueduct tests {name}"));
    openssl.args(["-x509", "-days", "3650", "-out", &format!("{name}.pem")]);
    quiet(&mut openssl)
}

/// One that the authority `ca` signed.
fn certificate(folder: &Path, name: &str, extension: &str) -> anyhow::Result<()> {
    let common_name = if name == "client" { USER } else { name };
    let mut openssl = request(folder, name, common_name);
    quiet(openssl.args(["-out", &format!("{name}.csr")]))?;
    let extensions = folder.join(format!("{name}.ext"));
    fs::write(&extensions, extension).with_context(|| format!("cannot write {}", extensions.display()))?;
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["x509", "-req", "-days", "3650", "-CA", "ca.pem", "-CAkey", "ca.key"]);
    openssl.args(["-CAcreateserial", "-in", &format!("{name}.csr"), "-out", &format!("{name}.pem")]);
    quiet(openssl.arg("-extfile").arg(extensions))
}

/// Begins with a new key, as PKCS#8, which is what a broker reads.
fn request(folder: &Path, name: &str, common_name: &str) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder);
    openssl.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]);
    openssl.args(["-subj", &format!("/CN={common_name}"), "-keyout", &format!("{name}.key")]);
    openssl
}

fn random_password() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that its owner alone reads.
fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
