//! All checks, the quick ones first.

use crate::{
    bugs, chaos, kafka, kills,
    run::{Built, answers, command, everything, need, step},
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
    // What is built without Kafka too.
    let without = "--workspace --exclude aqueduct-kafka --exclude bench-kafka";
    let without = command(&format!("cargo clippy --release --locked {without} --all-targets"));
    for mut clippy in [without, everything("clippy --all-targets")] {
        if in_ci() {
            clippy.args(["--", "-D", "warnings"]);
        }
        step(&mut clippy)?;
    }
    // At once, and before a broker takes its memory. What follows builds none of it again.
    step(&mut everything("build --all-targets"))?;
    kafka::test(Built::Everything)?;
    let mut docs = everything("doc --no-deps");
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step(&mut docs)?;
    if answers("cargo deny --version") {
        step(&mut command("cargo deny check"))?;
    } else {
        println!("\n== SKIPPED: cargo deny is not installed (cargo install cargo-deny)");
    }
    bugs::schedules()?;
    bugs::run(&bugs::Options::default())?;
    chaos::run(&chaos::Options::short())?;
    chaos::run(&chaos::Options::minute())?;
    // The whole path, killed five times, judged by the program that links none of our crates.
    let state = "target/test-kills".into();
    let options = kills::Options {
        data: None,
        kafka: false,
        kills: 5,
        within: 1_200,
        seed: None,
        state,
        built: Built::Everything,
    };
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
