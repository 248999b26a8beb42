//! The signals that end a process in good order.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at Ctrl-C or SIGTERM; the next one ends the process at once. That is safe: it is a kill.
#[expect(clippy::exit, reason = "who asks twice does not want to wait for the drain")]
pub async fn shutdown_signal() {
    let mut asked = tokio::task::JoinSet::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        match signal(kind) {
            Ok(mut stream) => {
                asked.spawn(async move { stream.recv().await });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for a signal: it will end the process at once")
            }
        }
    }
    if asked.join_next().await.is_none() {
        std::future::pending::<()>().await;
    }
    tokio::spawn(async move {
        if asked.join_next().await.is_some() {
            std::process::exit(130);
        }
    });
}
