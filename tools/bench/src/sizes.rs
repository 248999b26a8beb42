//! How large the transactions were that a log or a database ended up with: each tells it at level TRACE, and the raw
//! loop then uses the same sizes.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, dynamic_filter_fn, filter_fn},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// Warnings that are shown: a flood of them would be what is measured.
const WARNINGS: usize = 20;

static SIZES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn sizes() -> MutexGuard<'static, Vec<usize>> {
    SIZES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sizes since the last call.
#[must_use]
pub fn take() -> Vec<usize> {
    std::mem::take(&mut *sizes())
}

/// Listens for sizes from now on; the first warnings go to stderr.
///
/// # Errors
/// Another subscriber is installed.
pub fn listen() -> anyhow::Result<()> {
    let told = filter_fn(|metadata: &Metadata<'_>| {
        *metadata.level() == Level::TRACE
            && metadata.is_event()
            && ["aqueduct_embedded::writer", "aqueduct_sql::sqlite::writer"].contains(&metadata.target())
    });
    let shown = AtomicUsize::new(0);
    let warned = filter_fn(|metadata: &Metadata<'_>| *metadata.level() <= Level::WARN);
    let first = dynamic_filter_fn(move |_, _| shown.fetch_add(1, Ordering::Relaxed) < WARNINGS);
    let warnings = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry()
        .with(Listener.with_filter(told))
        .with(warnings.with_filter(warned.and(first)))
        .try_init()?;
    Ok(())
}

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Taken);
    }
}

struct Taken;

impl Visit for Taken {
    fn record_u64(&mut self, field: &Field, value: u64) {
        // A transaction without records is one that settled or made a topic.
        if matches!(field.name(), "records" | "turns") && value > 0 {
            sizes().push(usize::try_from(value).unwrap_or(usize::MAX));
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
