//! One idea each, each runnable: `cargo run --release --example hello`.
