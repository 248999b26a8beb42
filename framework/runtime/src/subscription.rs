//! What a service declares: a consumer group, the handlers that it routes to, and what happens on failure.

use std::{fmt, sync::Arc, time::Duration};

use aqueduct_core::{
    Event, EventInfo, EventSet, EventType, Handler, IntoEvents, TopicName,
    effects::Effects,
    handler::{self, Args, Route, Stateless},
    log::{Capabilities, Start},
    name::{self, NameError},
};
use hashbrown::HashMap;

use crate::policy::{OnFailure, Retry};

/// A named consumer group, with its handlers.
pub struct Subscription<S> {
    terms: Terms,
    routes: Vec<Stateless<S>>,
    ignored: Vec<EventInfo>,
    defaults: Vec<EventInfo>,
}

/// What a subscription says beside its handlers.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) name: String,
    pub(crate) concurrency: usize,
    pub(crate) window: usize,
    pub(crate) retry: Retry,
    pub(crate) on_failure: OnFailure,
    pub(crate) hold_at_most: Duration,
    pub(crate) start: Start,
    pub(crate) max_record_bytes: usize,
    pub(crate) exactly_once: bool,
    pub(crate) unordered_growth: bool,
}

/// A declaration that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The group's name breaks the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing to do.
    #[error("subscription {0} has no handler: add one with `.on(..)`")]
    NoHandler(String),
    /// Two handlers, or a handler and an ignore, for one event type.
    #[error("subscription {subscription} names {event} twice: one handler or one `.ignore` per event type")]
    Twice {
        /// The subscription.
        subscription: String,
        /// The event type's name.
        event: &'static str,
    },
    /// Two default types for one topic.
    #[error("subscription {subscription} declares two default types for topic {topic}")]
    TwoDefaults {
        /// The subscription.
        subscription: String,
        /// The topic.
        topic: &'static str,
    },
    /// A handler takes a transaction of a database that the app does not have.
    #[error(
        "handler {handler} of subscription {subscription} takes `Tx<{wanted}>`, but the app has {found}: add `.database(..)`"
    )]
    Database {
        /// The subscription.
        subscription: String,
        /// The handler's name.
        handler: &'static str,
        /// The database of its `Tx`.
        wanted: &'static str,
        /// What the app has.
        found: String,
    },
    /// A handler settles in a database, and the subscription in the log.
    #[error(
        "handler {handler} of subscription {subscription} takes `Tx`, and `.exactly_once()` settles in the log: remove one of them"
    )]
    ExactlyOnce {
        /// The subscription.
        subscription: String,
        /// The handler's name.
        handler: &'static str,
    },
    /// A setting out of its range.
    #[error("subscription {subscription}: {setting} must be at least 1")]
    Zero {
        /// The subscription.
        subscription: String,
        /// The setting.
        setting: &'static str,
    },
}

impl<S: Send + Sync + 'static> Subscription<S> {
    /// A subscription of the consumer group `name`: ordered by key, 64 handlers at once, a window of 4,096 deliveries
    /// per partition, five attempts, then the key is parked; a new group starts at the earliest record.
    #[must_use]
    pub fn builder(name: &str) -> Self {
        let terms = Terms {
            name: name.to_owned(),
            concurrency: 64,
            window: 4_096,
            retry: Retry::exponential(),
            on_failure: OnFailure::default(),
            hold_at_most: Duration::from_secs(600),
            start: Start::Earliest,
            max_record_bytes: 1024 * 1024,
            exactly_once: false,
            unordered_growth: false,
        };
        Self { terms, routes: Vec::new(), ignored: Vec::new(), defaults: Vec::new() }
    }

    /// Routes the events that `handler` takes to it.
    #[must_use]
    pub fn on<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<T>,
        T: Args<S>,
        H::Output: IntoEvents,
    {
        self.routes.push(handler::route::<S, H, T>(handler));
        self
    }

    /// Passes over these events, which share a topic with others that are handled. What is neither handled nor
    /// ignored by name is a failure.
    #[must_use]
    pub fn ignore<E: EventSet>(mut self) -> Self {
        self.ignored.extend(E::EVENTS);
        self
    }

    /// Takes records without a type, as plain producers write them, for this event in this version: where they write
    /// an older one, name that older type, and it is upcast.
    #[must_use]
    pub fn topic_default<E: Event>(mut self) -> Self {
        self.defaults.push(E::INFO);
        self
    }

    /// How many handlers run at once, over all partitions of this process.
    #[must_use]
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self { terms: Terms { concurrency, ..self.terms }, ..self }
    }

    /// How many deliveries of a partition may be above its settled offset.
    #[must_use]
    pub fn window(self, window: usize) -> Self {
        Self { terms: Terms { window, ..self.terms }, ..self }
    }

    /// From topic to topic, exactly once: what handlers return goes into the log in one transaction with the settled offset,
    /// so that who reads committed records sees each event once, in the order of the offsets it came from, after crashes,
    /// pauses and hand-overs too. Other effects of a handler may repeat.
    ///
    /// An event waits until all deliveries before it in its partition have ended. The app's database is not used for it: a
    /// handler that takes `Tx` has its effects once without it.
    #[must_use]
    pub fn exactly_once(self) -> Self {
        Self { terms: Terms { exactly_once: true, ..self.terms }, ..self }
    }

    /// Takes partitions that are added to a topic up at once. A key that moves to one then overtakes what it left in an older
    /// one. Without this they wait until the older ones have been handled up to where they ended when the new one had its
    /// first record, and hold no parked key.
    #[must_use]
    pub fn unordered_growth(self) -> Self {
        Self { terms: Terms { unordered_growth: true, ..self.terms }, ..self }
    }

    /// How often a failed delivery is attempted.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { terms: Terms { retry, ..self.terms }, ..self }
    }

    /// What happens then.
    #[must_use]
    pub fn then(self, on_failure: OnFailure) -> Self {
        Self { terms: Terms { on_failure, ..self.terms }, ..self }
    }

    /// How long a failing key is held in memory: while no other delivery of its handler succeeds, which may be an outage,
    /// its record is tried again and not set aside before this time has passed; and a `RetryAfter` beyond it parks the key
    /// with a due time. Ten minutes by default.
    #[must_use]
    pub fn hold_at_most(self, hold_at_most: Duration) -> Self {
        Self { terms: Terms { hold_at_most, ..self.terms }, ..self }
    }

    /// Where a group that has settled nothing starts.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        Self { terms: Terms { start, ..self.terms }, ..self }
    }

    /// The largest record that is decoded, in bytes; larger ones fail for good.
    #[must_use]
    pub fn max_record_bytes(self, max_record_bytes: usize) -> Self {
        Self { terms: Terms { max_record_bytes, ..self.terms }, ..self }
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.terms.name
    }

    pub(crate) fn is_exactly_once(&self) -> bool {
        self.terms.exactly_once
    }

    /// Gives the handlers their state, and finds where each event goes.
    pub(crate) fn plan(
        self,
        state: S,
        effects: Option<&Arc<dyn Effects>>,
    ) -> Result<(Terms, Routing), SubscriptionError> {
        let Self { terms, routes, ignored, defaults } = self;
        let state = Arc::new(state);
        let routes = routes.into_iter().map(|route| route(Arc::clone(&state))).collect();
        let routing = terms.plan(routes, &ignored, &defaults, effects)?;
        Ok((terms, routing))
    }
}

impl Terms {
    /// Whether each partition's task settles, in transactions with what handlers returned, and nobody else.
    pub(crate) fn settles_itself(&self) -> bool {
        self.exactly_once && !aqueduct_core::planted("settled-before-what-was-returned")
    }

    fn plan(
        &self,
        routes: Vec<Arc<dyn Route>>,
        ignored: &[EventInfo],
        defaults: &[EventInfo],
        effects: Option<&Arc<dyn Effects>>,
    ) -> Result<Routing, SubscriptionError> {
        name::check("subscription", &self.name)?;
        let subscription = || self.name.clone();
        for (setting, value) in [("concurrency", self.concurrency), ("window", self.window)] {
            if value == 0 {
                return Err(SubscriptionError::Zero { subscription: subscription(), setting });
            }
        }
        if routes.is_empty() {
            return Err(SubscriptionError::NoHandler(subscription()));
        }
        let mut routing = Routing {
            routes,
            targets: HashMap::new(),
            defaults: HashMap::new(),
            topics: Vec::new(),
            ignores: !ignored.is_empty(),
        };
        let mut topics = Vec::new();
        for (index, route) in routing.routes.iter().enumerate() {
            if let Some(wanted) = route.database() {
                if self.exactly_once {
                    let handler = route.name();
                    return Err(SubscriptionError::ExactlyOnce { subscription: subscription(), handler });
                }
                let found = effects.map_or_else(|| "none".to_owned(), |effects| effects.kind().to_owned());
                if found != wanted {
                    let handler = route.name();
                    return Err(SubscriptionError::Database {
                        subscription: subscription(),
                        handler,
                        wanted,
                        found,
                    });
                }
            }
            for info in route.events() {
                topics.push(info.topic);
                if routing.targets.insert(info.event.name, Target::Handle(index, *info)).is_some() {
                    return Err(SubscriptionError::Twice {
                        subscription: subscription(),
                        event: info.event.name,
                    });
                }
            }
        }
        for info in ignored {
            topics.push(info.topic);
            if routing.targets.insert(info.event.name, Target::Ignore).is_some() {
                return Err(SubscriptionError::Twice {
                    subscription: subscription(),
                    event: info.event.name,
                });
            }
        }
        for info in defaults {
            topics.push(info.topic);
            if routing.defaults.insert(info.topic, info.event).is_some() {
                return Err(SubscriptionError::TwoDefaults {
                    subscription: subscription(),
                    topic: info.topic,
                });
            }
        }
        topics.sort_unstable();
        topics.dedup();
        routing.topics = topics.into_iter().map(TopicName::new).collect::<Result<_, _>>()?;
        Ok(routing)
    }

    /// One sentence of what this subscription guarantees, derived from its configuration.
    pub(crate) fn guarantee(
        &self,
        routing: &Routing,
        capabilities: Capabilities,
        effects: Option<&Arc<dyn Effects>>,
    ) -> String {
        let durable =
            if capabilities.durable { "at least once" } else { "at least once while the process lives" };
        let transactional = routing.routes.iter().filter(|route| route.database().is_some()).count();
        let once = match effects {
            _ if self.exactly_once => {
                "published events once (in a transaction with the settled offset), other effects may repeat"
                    .to_owned()
            }
            None => "effects may repeat".to_owned(),
            Some(effects) if transactional == routing.len() => {
                format!("effects once ({})", effects.guarantee())
            }
            Some(effects) if transactional == 0 => {
                format!("published events once ({}), other effects may repeat", effects.guarantee())
            }
            Some(effects) => {
                format!("effects once for handlers with `Tx` ({}), others may repeat", effects.guarantee())
            }
        };
        let failure = match self.on_failure {
            OnFailure::Park => format!(
                "parks failing keys after {} attempts (dead-letters records without a key)",
                self.retry.limit()
            ),
            OnFailure::DeadLetter => format!(
                "dead-letters after {} attempts, successors of a dead letter go on",
                self.retry.limit()
            ),
            OnFailure::Stop => format!("stops the partition after {} attempts", self.retry.limit()),
        };
        let order = if self.unordered_growth {
            "ordered by key (not where partitions are added)"
        } else {
            "ordered by key"
        };
        format!("{}: {durable}, {order}, {once}, {failure}", self.name)
    }
}

impl<S> fmt::Debug for Subscription<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// Where each event type goes. The maps are only looked up in: nothing follows their order.
pub(crate) struct Routing {
    routes: Vec<Arc<dyn Route>>,
    targets: HashMap<&'static str, Target>,
    defaults: HashMap<&'static str, EventType>,
    pub(crate) topics: Vec<TopicName>,
    /// Whether any type is ignored: only then is a record's type looked at before its turn.
    pub(crate) ignores: bool,
}

pub(crate) enum Target {
    Handle(usize, EventInfo),
    Ignore,
}

impl Routing {
    pub(crate) fn target(&self, event: &str) -> Option<&Target> {
        self.targets.get(event)
    }

    pub(crate) fn route(&self, index: usize) -> Option<&Arc<dyn Route>> {
        self.routes.get(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    pub(crate) fn default_type(&self, topic: &TopicName) -> Option<EventType> {
        if self.defaults.is_empty() { None } else { self.defaults.get(topic.as_str()).copied() }
    }
}
