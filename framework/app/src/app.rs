//! The app: what a service is made of, started and drained as one.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use aqueduct_core::{
    BoxFuture, Event, LogError, LogErrorKind, TopicName,
    effects::{Effects, EffectsError, Relay, RelayMode},
    log::TopicSpec,
    name::NameError,
};
use aqueduct_runtime::{Bus, Drained, Subscriber, SubscriberError, Subscription, SubscriptionError};
use axum::Router;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    config::Config,
    http,
    status::{Status, Tell},
};

/// How long a relay that ended with an error waits before it tries for the lease again.
const RELAY_PAUSE: Duration = Duration::from_secs(1);

/// How soon a declared topic is asked for again that the log did not tell of.
const TOPIC_PAUSE: Duration = Duration::from_millis(250);

/// What a relay has to give its lease back, where the drain's deadline has passed.
const LEASE_BACK: Duration = Duration::from_millis(100);

/// An app cannot start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The builder was given no log.
    #[error("app {0} has no log: add `.log(&bus)`")]
    NoLog(String),
    /// The topic of a type that was declared is not a name.
    #[error("app {app} declares {source}")]
    TopicName {
        /// The app.
        app: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A topic is declared twice, so one of the declarations would be ignored.
    #[error("app {app} declares topic {topic} twice")]
    SameTopic {
        /// The app.
        app: String,
        /// The topic.
        topic: TopicName,
    },
    /// A declared topic is not there and could not be made.
    #[error("app {app}: {source}")]
    Topic {
        /// The app.
        app: String,
        /// What the log said.
        source: LogError,
    },
    /// A subscription cannot be run as declared.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// The configuration names a subscription that the app does not have.
    #[error("the settings name subscription {name}, app {app} has {known}")]
    UnknownSubscription {
        /// The app.
        app: String,
        /// The name in the settings.
        name: String,
        /// The names that it has.
        known: String,
    },
    /// Two subscriptions are one consumer group: each would get what the other handles.
    #[error("app {app} has two subscriptions named {name}: put their handlers into one")]
    SameName {
        /// The app.
        app: String,
        /// The name.
        name: String,
    },
    /// A subscription gave up.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// The HTTP listener failed.
    #[error("the HTTP server failed: {0}")]
    Http(#[source] std::io::Error),
    /// A task of the app died; a defect of ours.
    #[error("a task of the app died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Puts an app together.
pub struct AppBuilder<S = ()> {
    name: String,
    bus: Option<Bus>,
    state: S,
    effects: Option<Arc<dyn Effects>>,
    relay: RelayMode,
    topics: Vec<Result<TopicSpec, NameError>>,
    subscriptions: Vec<Subscription<S>>,
    routes: Router,
    listener: Option<TcpListener>,
    config: Config,
}

impl AppBuilder<()> {
    /// Gives handlers a state, by `State<S>`. Comes before the subscriptions.
    #[must_use]
    pub fn state<S: Clone + Send + Sync + 'static>(self, state: S) -> AppBuilder<S> {
        let Self { name, bus, state: (), effects, relay, topics, subscriptions: _, routes, listener, config } =
            self;
        let subscriptions = Vec::new();
        AppBuilder { name, bus, state, effects, relay, topics, subscriptions, routes, listener, config }
    }
}

impl<S: Clone + Send + Sync + 'static> AppBuilder<S> {
    /// The log; what this app publishes has its name as source.
    #[must_use]
    pub fn log(self, bus: &Bus) -> Self {
        Self { bus: Some(bus.with_source(&self.name)), ..self }
    }

    /// The database: position, inbox and outbox live there.
    #[must_use]
    pub fn database(self, database: &(impl Effects + Clone)) -> Self {
        Self { effects: Some(Arc::new(database.clone())), ..self }
    }

    /// How often an event that was staged in the database may come into the log: exactly once, unless said here.
    #[must_use]
    pub fn relay(self, mode: RelayMode) -> Self {
        Self { relay: mode, ..self }
    }

    /// Declares the topic of an event's type, from one that keeps everything and has the log's defaults. At the start it is
    /// made if it is not there; where it is and differs, that is reported, and nothing is changed.
    #[must_use]
    pub fn topic<E: Event>(mut self, declare: impl FnOnce(TopicSpec) -> TopicSpec) -> Self {
        let named = TopicName::new(E::INFO.topic).map(|name| declare(TopicSpec::new(name)));
        self.topics.push(named);
        self
    }

    /// Adds a subscription.
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscription<S>) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// The service's own HTTP routes.
    #[must_use]
    pub fn routes(self, routes: Router) -> Self {
        Self { routes, ..self }
    }

    /// Serves the routes, with health, readiness and metrics, while the app runs.
    #[must_use]
    pub fn http(self, listener: TcpListener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Settings: the drain deadline, and what overrides a subscription's declaration.
    #[must_use]
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Checks it all.
    ///
    /// # Errors
    /// There is no log, a subscription cannot be run as declared, or the settings name one that does not exist.
    pub fn build(self) -> Result<App, AppError> {
        let bus = self.bus.ok_or_else(|| AppError::NoLog(self.name.clone()))?;
        if let Some(name) = self
            .config
            .subscriptions
            .keys()
            .find(|name| self.subscriptions.iter().all(|each| each.name() != *name))
        {
            let known = self.subscriptions.iter().map(Subscription::name).collect::<Vec<_>>().join(", ");
            return Err(AppError::UnknownSubscription { app: self.name, name: name.clone(), known });
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.subscriptions.iter().find(|each| !names.insert(each.name().to_owned())) {
            return Err(AppError::SameName { app: self.name, name: twice.name().to_owned() });
        }
        let topics = topics(&self.name, self.topics)?;
        let mut subscribers = Vec::new();
        for mut subscription in self.subscriptions {
            if let Some(overrides) = self.config.subscriptions.get(subscription.name()) {
                if let Some(concurrency) = overrides.concurrency {
                    subscription = subscription.concurrency(concurrency);
                }
                if let Some(window) = overrides.window {
                    subscription = subscription.window(window);
                }
            }
            subscribers.push(Subscriber::new(
                subscription,
                self.state.clone(),
                bus.clone(),
                self.effects.clone(),
            )?);
        }
        let tell = subscribers.iter().map(|each| Box::new(each.status()) as Tell).collect();
        let status = Status::new(&self.name, tell, self.effects.clone(), Arc::clone(bus.log()));
        let deadline = self.config.drain.deadline;
        let (effects, relay, routes, listener) = (self.effects, self.relay, self.routes, self.listener);
        Ok(App { bus, effects, relay, topics, subscribers, routes, listener, status, deadline })
    }

    /// Checks it all and runs it.
    ///
    /// # Errors
    /// As [`AppBuilder::build`] and [`App::run`].
    pub async fn run(self, shutdown: impl Future) -> Result<(), AppError> {
        self.build()?.run(shutdown).await
    }
}

impl<S> fmt::Debug for AppBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBuilder")
            .field("name", &self.name)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}

/// An app, ready to run.
pub struct App {
    bus: Bus,
    effects: Option<Arc<dyn Effects>>,
    relay: RelayMode,
    topics: Vec<TopicSpec>,
    subscribers: Vec<Subscriber>,
    routes: Router,
    listener: Option<TcpListener>,
    status: Status,
    deadline: Duration,
}

impl App {
    /// Begins an app; its name is the service's, the source of its events and the name of its outbox.
    #[must_use]
    pub fn builder(name: &str) -> AppBuilder<()> {
        AppBuilder {
            name: name.to_owned(),
            bus: None,
            state: (),
            effects: None,
            relay: RelayMode::default(),
            topics: Vec::new(),
            subscriptions: Vec::new(),
            routes: Router::new(),
            listener: None,
            config: Config::default(),
        }
    }
}

impl App {
    /// What the app says of itself; the handle outlives the run.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// The service's routes, with health, readiness and metrics; for [`http::serve`], alone or nested.
    pub fn router(&self) -> Router {
        http::router(self.routes.clone(), self.status.clone(), self.bus.environment().clone())
    }

    /// Makes the declared topics, and reports in what those that are there differ. The log was reached before: what it does
    /// not answer now, it answers later.
    async fn make_topics(&self) -> Result<(), AppError> {
        let app = self.status.name();
        for spec in &self.topics {
            let info = loop {
                match self.bus.log().ensure_topic(spec.clone()).await {
                    Ok(info) => break info,
                    Err(error) if error.kind() == LogErrorKind::Unreachable => {
                        tracing::warn!(app, topic = %spec.name, %error, "cannot look for a declared topic yet");
                        tokio::time::sleep(TOPIC_PAUSE).await;
                    }
                    Err(source) => return Err(AppError::Topic { app: app.to_owned(), source }),
                }
            };
            for difference in spec.differences(&info.spec) {
                tracing::warn!(app, topic = %spec.name, difference, "a topic is not as it was declared");
            }
        }
        Ok(())
    }

    /// Runs until `shutdown`, or until a subscription gives up; then drains, in order: subscriptions stop taking
    /// and end what runs, then the relay moves what was staged, all within the deadline.
    ///
    /// # Errors
    /// A declared topic is not there and could not be made, or a subscription gave up.
    pub async fn run(self, shutdown: impl Future) -> Result<(), AppError> {
        let mut shutdown = std::pin::pin!(shutdown);
        tokio::select! {
            biased;
            _ = &mut shutdown => return Ok(()),
            made = self.make_topics() => made?,
        }
        let router = self.router();
        let Self { bus, effects, relay: mode, subscribers, status, deadline, listener, .. } = self;
        let (stop, stop_relay) = (CancellationToken::new(), CancellationToken::new());
        // Who drops the run ends the relay and the server too.
        let relay = effects.clone().map(|effects| {
            let led = lead(effects, mode, bus.clone(), status.clone(), stop_relay.clone());
            AbortOnDropHandle::new(tokio::spawn(led))
        });
        // It goes on answering while the app drains: its readiness then says so.
        let stop_http = CancellationToken::new();
        let server = listener.map(|listener| {
            let served = http::serve(listener, router, stop_http.clone().cancelled_owned());
            AbortOnDropHandle::new(tokio::spawn(served))
        });
        let mut running = JoinSet::new();
        for subscriber in subscribers {
            running.spawn(subscriber.run(stop.clone(), deadline));
        }
        let mut result = Ok(());
        tokio::select! {
            biased;
            _ = &mut shutdown => {}
            Some(ended) = running.join_next(), if !running.is_empty() => result = outcome(ended),
        }
        if !aqueduct_core::planted("ready-while-draining") {
            status.drain();
        }
        let started = Instant::now();
        tracing::info!(app = status.name(), "draining");
        stop.cancel();
        while let Some(ended) = running.join_next().await {
            let ended = outcome(ended);
            result = result.and(ended);
        }
        if let Some((effects, relay)) = effects.zip(relay) {
            flush(&effects, started + deadline).await;
            stop_relay.cancel();
            // It gives its lease back, where the database lets it; else the lease runs out.
            let limit = (started + deadline).max(Instant::now() + LEASE_BACK);
            match tokio::time::timeout_at(limit, relay).await {
                Ok(ended) => ended?,
                Err(_) => {
                    tracing::warn!(app = status.name(), "the relay did not give its lease back in time")
                }
            }
        }
        stop_http.cancel();
        if let Some(server) = server {
            result = result.and(server.await?.map_err(AppError::Http));
        }
        tracing::info!(app = status.name(), took = ?started.elapsed(), "drained");
        result
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("subscribers", &self.subscribers).finish_non_exhaustive()
    }
}

fn outcome(ended: Result<Result<Drained, SubscriberError>, tokio::task::JoinError>) -> Result<(), AppError> {
    let drained = ended??;
    if drained.unfinished > 0 {
        tracing::warn!(
            drained.unfinished,
            "deliveries did not end within the deadline; they will come again"
        );
    }
    Ok(())
}

/// Waits until the outbox is empty, at most until `deadline`. What is left is moved after the next start.
async fn flush(effects: &Arc<dyn Effects>, deadline: Instant) {
    loop {
        match effects.outbox().await {
            Ok(outbox) if outbox.waiting == 0 => return,
            Ok(outbox) if Instant::now() >= deadline => {
                tracing::warn!(outbox.waiting, "staged events were not moved within the deadline");
                return;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => {
                tracing::warn!(%error, "cannot tell what waits in the outbox");
                return;
            }
        }
    }
}

/// Checks the declared topics of an app.
fn topics(app: &str, declared: Vec<Result<TopicSpec, NameError>>) -> Result<Vec<TopicSpec>, AppError> {
    let app = || app.to_owned();
    let mut topics: Vec<TopicSpec> = Vec::with_capacity(declared.len());
    for spec in declared {
        let spec = spec.map_err(|source| AppError::TopicName { app: app(), source })?;
        if topics.iter().any(|other| other.name == spec.name) {
            return Err(AppError::SameTopic { app: app(), topic: spec.name });
        }
        topics.push(spec);
    }
    Ok(topics)
}

/// Runs the relay, and tries again when it was deposed or could not go on.
async fn lead(effects: Arc<dyn Effects>, mode: RelayMode, bus: Bus, status: Status, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let stopped: BoxFuture<'static, ()> = Box::pin(stop.clone().cancelled_owned());
        let relay = Relay {
            outbox: status.name().to_owned(),
            mode,
            log: Arc::clone(bus.log()),
            environment: bus.environment().clone(),
            report: Arc::new({
                let status = status.clone();
                move |trouble| status.relay(trouble)
            }),
            stop: stopped,
        };
        let ended: Result<(), EffectsError> = effects.relay(relay).await;
        let Err(error) = ended else { return };
        tracing::warn!(outbox = status.name(), %error, "the relay ended, trying again");
        status.relay(Some(error.to_string()));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RELAY_PAUSE) => status.relay(None),
        }
    }
}
