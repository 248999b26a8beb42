//! Java, Maven, and the broker's jars.

use std::{fs, process::Command};

use anyhow::{Context, bail, ensure};

use super::state::shared;
use crate::run::{need, quiet};

/// The version that tests run against.
pub(super) const VERSION: &str = "4.3.1";

/// What a broker needs of Java.
const JAVA: u32 = 17;

/// Copies the jars, unless they are there.
pub(super) fn jars() -> anyhow::Result<()> {
    need("java -version", "default-jre-headless")?;
    let version = java_version()?;
    ensure!(
        version >= JAVA,
        "Apache Kafka {VERSION} needs Java {JAVA} or newer, `java -version` says {version}"
    );
    // Made last, so that an interrupted copy is begun anew.
    let complete = shared().join(format!("jars/complete-{VERSION}"));
    if complete.exists() {
        return Ok(());
    }
    need("mvn --version", "maven")?;
    fs::create_dir_all(shared()).with_context(|| format!("cannot make {}", shared().display()))?;
    let pom = shared().join("pom.xml");
    fs::write(&pom, POM.replace("VERSION", VERSION))
        .with_context(|| format!("cannot write {}", pom.display()))?;
    println!("fetching Apache Kafka {VERSION} ..");
    let mut mvn = Command::new("mvn");
    mvn.args(["--batch-mode", "--quiet", "--file"]).arg(&pom);
    mvn.arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies");
    mvn.args(["-DincludeScope=runtime", "-DoutputDirectory=jars"]);
    quiet(&mut mvn).context("the artifacts of Apache Kafka cannot be fetched by Maven")?;
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))
}

/// The feature release, such as 17.
fn java_version() -> anyhow::Result<u32> {
    let output = Command::new("java").arg("-version").output().context("cannot run java")?;
    let text = String::from_utf8_lossy(&output.stderr);
    // `openjdk version "17.0.15" 2025-04-15`; before Java 9 it was `"1.8.0_392"`.
    let mut parts = text.split('"').nth(1).unwrap_or_default().split('.');
    match parts.next().and_then(|part| part.split('-').next()?.parse().ok()) {
        Some(version) => Ok(version),
        None => bail!("`java -version` says {text:?}, which names no version"),
    }
}

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>aqueduct</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;
