//! Health, readiness and metrics beside a service's own routes.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use aqueduct_core::Environment;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    metrics,
    problem::{Problem, with_problems},
    status::Status,
};

/// How long open connections may take to end once the server stops.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// The service's routes, and `/health/live`, `/health/ready`, `/metrics`.
pub(crate) fn router(service: Router, status: Status, environment: Environment) -> Router {
    let own = Router::new()
        .route("/health/live", get(|| async { Json(json!({ "live": true })) }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state((status, environment));
    with_problems(service.merge(own))
}

async fn ready(State((status, _)): State<(Status, Environment)>) -> Response {
    let readiness = status.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": readiness.ready, "reasons": readiness.reasons }))).into_response()
}

async fn scrape(State((status, environment)): State<(Status, Environment)>) -> Response {
    match metrics::text(&status, &environment).await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => Problem::unavailable(error.to_string()).into_response(),
    }
}

/// Serves `router` until `shutdown`. On a loopback address a request must name a loopback host, so that a page of
/// another site cannot reach it by a name of its own.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let router =
        if address.ip().is_loopback() { router.layer(middleware::from_fn(check_host)) } else { router };
    let router = with_problems(router);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let signal = async move {
        shutdown.await;
        // The receiver is gone only when the server has ended.
        let _ = stopping.send(());
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(signal);
    tokio::select! {
        biased;
        result = server => result,
        () = async {
            let _ = stopped.await;
            tokio::time::sleep(CLOSE_DEADLINE).await;
        } => Ok(()),
    }
}

async fn check_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_loopback) {
        next.run(request).await
    } else {
        Problem::forbidden("this server listens on loopback: name it as localhost").into_response()
    }
}

/// Whether a `Host` is a name of loopback, with or without a port.
fn is_loopback(host: &str) -> bool {
    // An IPv6 address has colons of its own, and stands in brackets.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "0"),
    };
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let loopback = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    };
    loopback && port.parse::<u16>().is_ok()
}
