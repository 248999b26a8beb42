//! Given a state, when an event is delivered, then an outcome and the events that the handler returned.

use std::{fmt::Debug, future::poll_fn, marker::PhantomData, sync::Arc};

use aqueduct_core::{
    Draft, Environment, EventId, EventSet, Handler, HandlerError, IntoEvents, Record, Timestamp, TopicName,
    cloudevents::Incoming,
    effects::{Begin, Effects, Place, Scope, Transaction},
    environment::{Clock, Random},
    handler::{Args, Context, Outcome, route},
    log::PartitionId,
    record::OwnedRecord,
};
use bytes::Bytes;
use uuid::Uuid;

use super::diff::assert_same;

/// Begins with a handler; its state is `()` until [`GivenHandler::state`].
pub fn handler<H, T>(handler: H) -> GivenHandler<H, T, ()>
where
    H: Handler<T>,
{
    GivenHandler {
        handler,
        state: (),
        id: None,
        source: "test".to_owned(),
        time: Timestamp::from_millis(0),
        attempt: 1,
        offset: 0,
        database: None,
        args: PhantomData,
    }
}

/// A handler, and the delivery that it will get.
#[must_use = "nothing is delivered yet: go on with `.when(..)`"]
pub struct GivenHandler<H, T, S> {
    handler: H,
    state: S,
    id: Option<EventId>,
    source: String,
    time: Timestamp,
    attempt: u32,
    offset: i64,
    database: Option<Arc<dyn Effects>>,
    args: PhantomData<fn(T)>,
}

/// The time and the numbers of a test are always the same.
struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }
}

struct Zeros;

impl Random for Zeros {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

impl<H, T> GivenHandler<H, T, ()> {
    /// The app's state.
    pub fn state<S>(self, state: S) -> GivenHandler<H, T, S> {
        let Self { handler, state: (), id, source, time, attempt, offset, database, args } = self;
        GivenHandler { handler, state, id, source, time, attempt, offset, database, args }
    }
}

impl<H, T, S> GivenHandler<H, T, S> {
    /// The event's id; otherwise one that is always the same.
    pub fn id(self, id: impl Into<EventId>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Who published it; `test` otherwise.
    pub fn source(self, source: &str) -> Self {
        Self { source: source.to_owned(), ..self }
    }

    /// When it happened; the Unix epoch otherwise.
    pub fn time(self, time: Timestamp) -> Self {
        Self { time, ..self }
    }

    /// The attempt; the first otherwise.
    pub fn attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// The offset of its record; 0 otherwise.
    pub fn offset(self, offset: i64) -> Self {
        Self { offset, ..self }
    }

    /// The database whose transaction the handler takes by `Tx`: where it succeeds it commits, with its marks and the
    /// events that it returned, and the same event does not begin again.
    pub fn database(self, database: &(impl Effects + Clone)) -> Self {
        Self { database: Some(Arc::new(database.clone())), ..self }
    }

    /// Delivers an event, as the runtime does: encoded, then decoded for the handler.
    ///
    /// # Panics
    /// The event does not encode, the handler's arguments cannot be made from it, or the database does not do its part.
    pub async fn when<E>(self, event: E) -> Handled
    where
        S: Send + Sync + 'static,
        H: Handler<T>,
        T: Args<S>,
        H::Output: IntoEvents,
        E: EventSet,
    {
        let draft = event.draft().expect("the event encodes");
        let id = self.id.unwrap_or_else(|| EventId::of_name("given", "event"));
        let mark = id.mark(&self.source);
        let environment = Environment::new(Still(self.time), Zeros);
        let new = draft.id(id).time(self.time).into_record(&self.source, &environment);
        let record: Record = OwnedRecord {
            topic: new.topic,
            partition: 0,
            offset: self.offset,
            timestamp: new.timestamp,
            key: new.key,
            headers: new.headers,
            value: new.value,
        }
        .into();
        let mut transaction = match &self.database {
            None => None,
            Some(database) => match begin(&**database, &record, mark).await {
                Some(transaction) => Some(transaction),
                None => return Handled(Answered::Ended),
            },
        };
        let incoming = Incoming::read(&record, None).expect("the record reads as an event");
        let context = Context {
            state: &(),
            incoming: &incoming,
            payload: incoming.payload.unwrap_or_default(),
            attempt: self.attempt,
            lease: transaction.as_mut().and_then(|transaction| transaction.lease()),
            replayed: false,
        };
        let mut slot = route::<S, H, T>(self.handler)(Arc::new(self.state)).slot();
        if let Err(error) = slot.as_mut().start(context) {
            panic!("the handler's arguments cannot be made: {error:?}");
        }
        let outcome = poll_fn(|cx| slot.as_mut().poll(cx)).await;
        if let (Ok(drafts), Some(mut transaction)) = (&outcome, transaction) {
            let envelope = incoming.envelope();
            for (index, draft) in drafts.iter().enumerate() {
                let draft = draft.clone().caused_by(&envelope, "given", index, &environment);
                transaction.stage(draft.into_record("given", &environment));
            }
            transaction.commit().await.expect("the transaction commits");
        }
        Handled(match outcome {
            Ok(drafts) => Answered::Returned(drafts),
            Err(error) => Answered::Failed(error),
        })
    }
}

/// None: the event has ended already.
async fn begin(database: &dyn Effects, record: &Record, mark: [u8; 16]) -> Option<Box<dyn Transaction>> {
    let partition = PartitionId { topic: record.topic().clone(), partition: record.partition() };
    let scope = Scope { subscription: "given".to_owned(), topic_id: Uuid::nil(), partition };
    let taken = database.take(&scope).await.expect("the database is taken");
    let begun = database.begin(taken.claim, Place::Live(record.offset()), Some(mark)).await;
    match begun.expect("the delivery begins") {
        Begin::New(transaction) => Some(transaction),
        Begin::Ended => None,
        Begin::Fenced => panic!("another owner took the partition in between"),
    }
}

/// What a handler answered.
#[derive(Debug)]
#[must_use = "nothing is asserted yet: go on with `.then(..)`"]
pub struct Handled(Answered);

#[derive(Debug)]
enum Answered {
    Returned(Vec<Draft>),
    Failed(HandlerError),
    /// Its event had ended before: it was not called.
    Ended,
}

/// An event as a failed test shows it.
#[derive(PartialEq, Eq)]
struct Shown {
    event: String,
    topic: TopicName,
    key: Option<Bytes>,
    payload: String,
}

impl Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key.as_deref().unwrap_or(b"none").escape_ascii();
        writeln!(f, "{} to {} (key {key})", self.event, self.topic)?;
        f.write_str(&self.payload)
    }
}

fn shown(draft: &Draft) -> Shown {
    let environment = Environment::new(Still(Timestamp::from_millis(0)), Zeros);
    let event = draft.info().event.to_string();
    let record = draft.clone().into_record("test", &environment);
    Shown {
        event,
        topic: record.topic,
        key: record.key,
        payload: String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned(),
    }
}

impl Handled {
    /// It succeeded, and returned exactly these events, in this order.
    ///
    /// # Panics
    /// It failed, or returned others: the message shows the difference.
    #[track_caller]
    pub fn then<E: EventSet>(self, expected: impl IntoIterator<Item = E>) {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|event| shown(&event.draft().expect("the expected event encodes")))
            .collect();
        assert_same("the events that the handler returned", &expected, &self.returned());
    }

    /// It succeeded, and returned nothing.
    ///
    /// # Panics
    /// It failed, or returned an event.
    #[track_caller]
    pub fn then_nothing(self) {
        assert_same::<Shown, _>("the events that the handler returned", &[], &self.returned());
    }

    /// It was not called: its event has ended before, in its database.
    ///
    /// # Panics
    /// It was called.
    #[track_caller]
    pub fn then_ended(self) {
        assert!(matches!(self.0, Answered::Ended), "the handler was called again: {:?}", self.0);
    }

    #[track_caller]
    fn returned(self) -> Vec<Shown> {
        match self.0 {
            Answered::Returned(drafts) => drafts.iter().map(shown).collect(),
            Answered::Failed(error) => panic!("the handler failed: {error:?}"),
            Answered::Ended => panic!("the handler was not called: the event has ended before"),
        }
    }

    /// It failed, asks for this, and its error says this.
    ///
    /// # Panics
    /// It succeeded, asks for something else, or says something else.
    #[track_caller]
    pub fn then_fails(self, outcome: Outcome, message: &str) {
        match self.0 {
            Answered::Failed(error) => {
                let found = [format!("{:?}", error.outcome()), error.to_string()];
                assert_same("how the handler failed", &[format!("{outcome:?}"), message.to_owned()], &found);
            }
            other => {
                let returned = Self(other).returned();
                panic!("{outcome:?} was expected, and the handler succeeded: {returned:#?}");
            }
        }
    }
}

impl<H, T, S> Debug for GivenHandler<H, T, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenHandler").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
