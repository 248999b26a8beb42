//! Handlers: plain async functions whose arguments say what they need.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use crate::{
    cloudevents::Incoming,
    draft::{Draft, IntoEvents},
    envelope::Envelope,
    error::{BoxError, EncodeError},
    event::{EventInfo, EventSet},
    log::{PartitionId, Position},
};

/// What a handler returns: events to publish with its effects, or why it failed.
pub type Handled<T = ()> = Result<T, HandlerError>;

/// A failed attempt. Any error becomes one by `?`, and is retried by the subscription's policy; [`Terminal`] and
/// [`RetryAfter`] say otherwise.
///
/// Like [`Terminal`] it is not itself an `Error`: that is what lets every error convert into it.
pub struct HandlerError {
    outcome: Outcome,
    source: BoxError,
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Retry by policy.
    Retry,
    /// Retry after this long.
    RetryAfter(Duration),
    /// Fail for good, now.
    Terminal,
}

impl HandlerError {
    /// What it asks for.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The error.
    #[must_use]
    pub fn source(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut error: Option<&dyn std::error::Error> = Some(&*self.source);
        let mut separator = "";
        let mut last = String::new();
        while let Some(cause) = error {
            let text = cause.to_string();
            // Many errors print their source themselves; say each thing once.
            if !last.ends_with(&text) || last.is_empty() {
                write!(f, "{separator}{text}")?;
                separator = ": ";
            }
            last = text;
            error = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandlerError({:?}: {self})", self.outcome)
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self { outcome: Outcome::Retry, source: error.into() }
    }
}

/// Fail for good, now: no attempt can succeed. `return Err(Terminal::new(error).into())`, or `.map_err(Terminal::new)?`.
pub struct Terminal(BoxError);

impl Terminal {
    /// Wraps an error.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terminal({})", self.0)
    }
}

impl From<Terminal> for HandlerError {
    fn from(terminal: Terminal) -> Self {
        Self { outcome: Outcome::Terminal, source: terminal.0 }
    }
}

/// Retry after a given time, in place of the policy's back-off.
pub struct RetryAfter(Duration, BoxError);

impl RetryAfter {
    /// Wraps an error.
    pub fn new(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self(delay, error.into())
    }
}

impl fmt::Debug for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryAfter({:?}, {})", self.0, self.1)
    }
}

impl From<RetryAfter> for HandlerError {
    fn from(RetryAfter(delay, source): RetryAfter) -> Self {
        Self { outcome: Outcome::RetryAfter(delay), source }
    }
}

/// One attempt at one record, as extractors see it.
#[derive(Debug)]
pub struct Context<'a, S> {
    /// The app's state.
    pub state: &'a S,
    /// The record, read as an event.
    pub incoming: &'a Incoming<'a>,
    /// The payload.
    pub payload: &'a [u8],
    /// The attempt, from 1.
    pub attempt: u32,
    /// The transaction's lease, until an extractor takes it.
    pub lease: Option<Box<dyn Any + Send>>,
    /// Whether history is delivered again.
    pub replayed: bool,
}

impl<'a> Context<'a, ()> {
    fn with_state<S>(self, state: &'a S) -> Context<'a, S> {
        let Self { state: (), incoming, payload, attempt, lease, replayed } = self;
        Context { state, incoming, payload, attempt, lease, replayed }
    }
}

impl<S> Context<'_, S> {
    /// Where the record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        let record = self.incoming.record();
        let partition = PartitionId { topic: record.topic().clone(), partition: record.partition() };
        Position { partition, offset: record.offset() }
    }
}

/// An extractor: an argument made from the delivery, after the event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler in an app whose state is `{S}`",
    label = "not an extractor here",
    note = "after the event a handler takes `Envelope`, `State<S>` with the app's own state, or `Tx<Sqlite>`",
    note = "an app without `.state(..)` has the state `()`"
)]
pub trait FromDelivery<S>: Sized + Send + 'static {
    /// The database whose transaction this extractor takes, if it does.
    const DATABASE: Option<&'static str> = None;

    /// Makes the argument.
    ///
    /// # Errors
    /// What it needs is not there.
    fn from_delivery(context: &mut Context<'_, S>) -> Result<Self, HandlerError>;
}

/// The app's state, cloned.
#[derive(Debug, Clone, Copy)]
pub struct State<S>(pub S);

impl<S: Clone + Send + Sync + 'static> FromDelivery<S> for State<S> {
    fn from_delivery(context: &mut Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(Self(context.state.clone()))
    }
}

impl<S> FromDelivery<S> for Envelope {
    fn from_delivery(context: &mut Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(context.incoming.envelope())
    }
}

/// An event with where it came from.
#[derive(Debug, Clone)]
pub struct Delivery<E> {
    /// The event.
    pub event: E,
    /// Its metadata.
    pub envelope: Envelope,
    /// Where its record stands.
    pub position: Position,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether it is history that a replay delivers again.
    pub replayed: bool,
}

/// The first argument of a handler: an event, a set of events, or a [`Delivery`] of either.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the first argument of a handler",
    note = "a handler takes the event first: a type that derives `Event` or `EventSet`, or `Delivery<..>` of one"
)]
pub trait Input: Sized + Send + 'static {
    /// What it decodes.
    type Events: EventSet;
    /// Puts the argument together.
    fn from_events<S>(events: Self::Events, context: &Context<'_, S>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<E: EventSet> Input for E {
    type Events = E;
    fn from_events<S>(events: E, _: &Context<'_, S>) -> E {
        events
    }
}

impl<E: EventSet> Input for Delivery<E> {
    type Events = E;
    fn from_events<S>(event: E, context: &Context<'_, S>) -> Self {
        Self {
            event,
            envelope: context.incoming.envelope(),
            position: context.position(),
            attempt: context.attempt,
            replayed: context.replayed,
        }
    }
}

/// The arguments of a handler as a tuple.
pub trait Args<S>: Sized + Send + 'static {
    /// The events it takes.
    type Events: EventSet;
    /// The database whose transaction one of them takes, if any.
    const DATABASE: Option<&'static str>;
    /// Decodes the event and makes the rest.
    ///
    /// # Errors
    /// The payload does not decode (as [`ArgsError::Decode`]), or an extractor fails.
    fn extract(context: &mut Context<'_, S>) -> Result<Self, ArgsError>;
}

/// Why arguments could not be made.
#[derive(Debug)]
pub enum ArgsError {
    /// The record is not the event that it should be: no attempt can succeed.
    Decode(crate::error::DecodeError),
    /// An extractor failed.
    Extract(HandlerError),
}

/// An async function that handles events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is an `async fn` of at most eight arguments, the event first, that returns `Handled<..>`; its future must be `Send`"
)]
pub trait Handler<T>: Clone + Send + Sync + 'static {
    /// What it returns on success.
    type Output;
    /// Its future.
    type Future: Future<Output = Handled<Self::Output>> + Send + 'static;
    /// Calls it.
    fn call(&self, args: T) -> Self::Future;
}

macro_rules! handlers {
    ($($extractor:ident),*) => {
        impl<Func, Fut, Out, First, $($extractor),*> Handler<(First, $($extractor,)*)> for Func
        where
            Func: Fn(First, $($extractor),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Handled<Out>> + Send + 'static,
        {
            type Output = Out;
            type Future = Fut;
            #[allow(non_snake_case, reason = "the macro names variables after type parameters")]
            fn call(&self, (first, $($extractor,)*): (First, $($extractor,)*)) -> Fut {
                self(first, $($extractor),*)
            }
        }

        impl<S, First: Input, $($extractor: FromDelivery<S>),*> Args<S> for (First, $($extractor,)*) {
            type Events = First::Events;
            const DATABASE: Option<&'static str> = {
                #[allow(unused_mut, reason = "a handler with the event alone has no extractor")]
                let mut database = None;
                $(if let Some(name) = $extractor::DATABASE { database = Some(name); })*
                database
            };
            fn extract(context: &mut Context<'_, S>) -> Result<Self, ArgsError> {
                let (name, version) = context.incoming.event_type();
                let events =
                    First::Events::read(name, version, context.payload).map_err(ArgsError::Decode)?;
                let first = First::from_events(events, context);
                Ok((first, $($extractor::from_delivery(context).map_err(ArgsError::Extract)?,)*))
            }
        }
    };
}
handlers!();
handlers!(A);
handlers!(A, B);
handlers!(A, B, C);
handlers!(A, B, C, D);
handlers!(A, B, C, D, E);
handlers!(A, B, C, D, E, G);
handlers!(A, B, C, D, E, G, H);

/// A handler with its types erased, and the app's state: what a subscription routes to. Nothing behind it is generic, so a
/// service compiles its handlers and no more.
pub trait Route: Send + Sync {
    /// The events it takes.
    fn events(&self) -> &'static [EventInfo];
    /// The database whose transaction it takes, if any.
    fn database(&self) -> Option<&'static str>;
    /// The handler's name, for logs.
    fn name(&self) -> &'static str;
    /// A place for one run of it at a time.
    fn slot(&self) -> RouteSlot;
}

/// A place where a handler runs, one run after the other in the same memory.
pub type RouteSlot = Pin<Box<dyn Slot>>;

/// See [`RouteSlot`]. One that panicked is cleared, or dropped, before it is used again.
pub trait Slot: Send {
    /// Makes the arguments and the handler's future; nothing of it has run. A lease that no argument took goes back: else it
    /// would hold up its neighbours while the handler runs.
    ///
    /// # Errors
    /// As [`Args::extract`].
    fn start(self: Pin<&mut Self>, context: Context<'_, ()>) -> Result<(), ArgsError>;

    /// Runs on: ready with the encoded events that it returned, or why it failed. By then the handler's future has
    /// been dropped, with all that it held.
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Vec<Draft>, HandlerError>>;
}

/// A handler that has still to be given the app's state.
pub type Stateless<S> = Box<dyn FnOnce(Arc<S>) -> Arc<dyn Route> + Send + Sync>;

/// Erases a handler.
pub fn route<S, H, T>(handler: H) -> Stateless<S>
where
    S: Send + Sync + 'static,
    H: Handler<T>,
    T: Args<S>,
    H::Output: IntoEvents,
{
    Box::new(|state| Arc::new(Erased { handler, state, args: PhantomData::<fn(T)> }))
}

struct Erased<S, H, T> {
    handler: H,
    state: Arc<S>,
    args: PhantomData<fn(T)>,
}

impl<S, H, T> Route for Erased<S, H, T>
where
    S: Send + Sync + 'static,
    H: Handler<T>,
    T: Args<S>,
    H::Output: IntoEvents,
{
    fn events(&self) -> &'static [EventInfo] {
        T::Events::EVENTS
    }

    fn database(&self) -> Option<&'static str> {
        T::DATABASE
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    fn slot(&self) -> RouteSlot {
        let (handler, state) = (self.handler.clone(), Arc::clone(&self.state));
        Box::pin(Typed { handler, state, running: None })
    }
}

pin_project_lite::pin_project! {
    struct Typed<S, H, T>
    where
        H: Handler<T>,
    {
        handler: H,
        state: Arc<S>,
        #[pin]
        running: Option<H::Future>,
    }
}

impl<S, H, T> Slot for Typed<S, H, T>
where
    S: Send + Sync + 'static,
    H: Handler<T>,
    T: Args<S>,
    H::Output: IntoEvents,
{
    fn start(self: Pin<&mut Self>, context: Context<'_, ()>) -> Result<(), ArgsError> {
        let mut this = self.project();
        this.running.set(None);
        let args = T::extract(&mut context.with_state(&**this.state))?;
        this.running.set(Some(this.handler.call(args)));
        Ok(())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Vec<Draft>, HandlerError>> {
        let mut this = self.project();
        let Some(running) = this.running.as_mut().as_pin_mut() else {
            return Poll::Ready(Err("the handler was polled and not started".into()));
        };
        let output = ready!(running.poll(cx));
        this.running.set(None);
        let mut drafts = Vec::new();
        // What does not encode now will not encode at the next attempt either.
        let result = output.and_then(|output| {
            output.append_to(&mut drafts).map_err(|error: EncodeError| Terminal::new(error).into())
        });
        Poll::Ready(result.map(|()| drafts))
    }
}
