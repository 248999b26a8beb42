//! All checks, the quick ones first.

use crate::{
    bugs, chaos, kafka, kills,
    run::{answers, command, need, step},
};

pub(crate) fn run() -> anyhow::Result<()> {
    need("python3 --version", "python3")?;
    // Counts instructions in `cargo test -p bench`.
    need("valgrind --version", "valgrind")?;
    // Makes a sync fail in `chaos::run`.
    need("strace --version", "strace")?;
    // TLS of librdkafka, and how it is found.
    need("pkg-config --version", "pkg-config")?;
    need("pkg-config --exists openssl", "libssl-dev")?;
    step(&mut command("cargo fmt --all --check"))?;
    step(&mut command("python3 -B -m unittest discover --start-directory tools/verify"))?;
    let mut clippy = command("cargo clippy --release --workspace --all-targets --locked");
    if in_ci() {
        clippy.args(["--", "-D", "warnings"]);
    }
    step(&mut clippy)?;
    // Those of the Kafka log need a broker. Its bench has none, and would give the shop's tests a shop with Kafka.
    step(&mut command(
        "cargo test --release --workspace --exclude aqueduct-kafka --exclude bench-kafka --locked",
    ))?;
    kafka::test()?;
    let mut docs = command("cargo doc --release --workspace --no-deps --locked");
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step(&mut docs)?;
    if answers("cargo deny --version") {
        step(&mut command("cargo deny check"))?;
    } else {
        println!("\n== SKIPPED: cargo deny is not installed (cargo install cargo-deny)");
    }
    bugs::schedules()?;
    bugs::run(&bugs::Options::default())?;
    bugs::run(&bugs::Options::of_kafka())?;
    chaos::run(&chaos::Options::short())?;
    chaos::run(&chaos::Options::minute())?;
    // The whole path, killed five times, judged by the program that links none of our crates.
    let state = "target/test-kills".into();
    let options = kills::Options { data: None, kafka: false, kills: 5, within: 1_200, seed: None, state };
    kills::run(&options)?;
    // Several processes of each service on Kafka.
    kills::run(&kills::Options {
        kafka: true,
        kills: 8,
        within: 2_500,
        state: "target/test-kills-kafka".into(),
        ..options
    })
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}
