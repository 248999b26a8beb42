//! The contract of every commit log, run against an adapter: `cargo test --release --example contract`.

fn main() {
    println!("cargo test --release --example contract");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aqueduct::{core::log::CommitLog, memory::MemoryLog};

    /// An empty log with four partitions by default; put your own adapter here.
    async fn make() -> (Arc<dyn CommitLog>, ()) {
        (Arc::new(MemoryLog::new(4)), ())
    }

    aqueduct_testkit::contract_tests!(make);
}
