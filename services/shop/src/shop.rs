//! Starts it all, waits for the end, drains.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use aqueduct::{Config, Status, caught_up, serve, shutdown_signal};
use axum::Router;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    feed::{self, Fed},
    options::Options,
    progress,
    report::Report,
    sales::Sales,
};

const LISTEN: &str = "127.0.0.1:8080";

pub(crate) async fn run(options: Options, config: Config) -> anyhow::Result<()> {
    let sales = Sales::open(options.data.as_deref())?;
    if let Some(folder) =
        options.report.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty())
    {
        ensure!(folder.is_dir(), "--report: there is no folder {}", folder.display());
    }
    let state = &options.state;
    fs::create_dir_all(state).with_context(|| format!("--state {}", state.display()))?;
    let listen = options.listen.map_or_else(|| config.http.listen.map_or_else(|| LISTEN.parse(), Ok), Ok)?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}: cannot listen there"))?;
    let url = options.log.clone().or_else(|| config.log.url.clone());
    let url = url.unwrap_or_else(|| format!("embedded:{}", state.join("log.db").display()));
    let bus = aqueduct::connect(&url).await?;
    let inventory_database = inventory::open(state.join("inventory.db")).await?;
    let recommendation_database = recommendation::open(state.join("recommendation.db")).await?;

    // Each app refuses settings of a subscription that neither has.
    let (mut of_inventory, mut of_recommendation) = (config.clone(), config);
    of_inventory.subscriptions.remove("recommendation");
    of_recommendation.subscriptions.retain(|name, _| name == "recommendation");
    let inventory = inventory::app(&bus, &inventory_database).config(of_inventory).build()?;
    let recommendation =
        recommendation::app(&bus, &recommendation_database).config(of_recommendation).build()?;
    let apps = vec![inventory.status(), recommendation.status()];
    let routes =
        Router::new().nest("/inventory", inventory.router()).nest("/recommendation", recommendation.router());
    eprintln!(
        "http://{0}/inventory/summary  http://{0}/recommendation/summary  (Ctrl-C ends)",
        listener.local_addr()?
    );

    // One end for all: a signal, the last sale, or whatever gives up first.
    let stop = CancellationToken::new();
    let fed = Arc::new(Fed::default());
    let mut services = JoinSet::new();
    services.spawn(ending(stop.clone(), inventory.run(stop.clone().cancelled_owned())));
    services.spawn(ending(stop.clone(), recommendation.run(stop.clone().cancelled_owned())));
    // It answers until the services have drained: their readiness says so.
    let drained = CancellationToken::new();
    let server = tokio::spawn(serve(listener, routes, drained.clone().cancelled_owned()));
    let feed = feed::run(sales, bus.with_source("till"), options.speed, Arc::clone(&fed), stop.clone());
    let feed = tokio::spawn(ending_on_error(stop.clone(), feed));
    let shown = tokio::spawn(progress::show(Arc::clone(&fed), apps.clone()));
    let mut failed = None;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = shutdown_signal() => stop.cancel(),
        end = at_end(&fed, &apps), if options.until_end => {
            stop.cancel();
            failed = end.err();
        }
    }

    while let Some(ended) = services.join_next().await {
        ended??;
    }
    let set_aside = feed.await??;
    drained.cancel();
    server.await??;
    shown.abort();
    if let Some(error) = failed {
        return Err(error);
    }
    if fed.ended.load(Ordering::Acquire) && options.until_end {
        let baskets = fed.baskets.load(Ordering::Relaxed);
        let databases = (&inventory_database, &recommendation_database);
        let report = Report::gather(baskets, set_aside, databases, &apps).await?;
        if let Some(path) = &options.report {
            report.write(path)?;
        }
        println!("{}", serde_json::to_string(&report)?);
    }
    inventory_database.close().await;
    recommendation_database.close().await;
    bus.log().close().await?;
    Ok(())
}

/// Waits until all sales are in the log and both services have nothing left to do.
async fn at_end(fed: &Fed, apps: &[Status]) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        for app in apps {
            for subscription in app.subscriptions() {
                for (id, partition) in subscription.partitions {
                    if let Some(reason) = partition.stopped {
                        bail!("{}: {id} stopped: {reason}", subscription.name);
                    }
                }
            }
        }
        if fed.ended.load(Ordering::Acquire) && caught_up(apps).await.map_err(anyhow::Error::from_boxed)? {
            return Ok(());
        }
    }
}

/// Runs `part`; when it ends, everything does.
fn ending<T, E>(
    stop: CancellationToken,
    part: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    let guard = stop.drop_guard();
    async move {
        let _guard = guard;
        part.await
    }
}

/// Runs `part`; when it fails, everything ends.
fn ending_on_error<T, E>(
    stop: CancellationToken,
    part: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    let guard = stop.drop_guard();
    async move {
        let result = part.await;
        if result.is_ok() {
            guard.disarm();
        }
        result
    }
}
