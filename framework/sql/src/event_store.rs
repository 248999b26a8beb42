//! Append-only streams of an aggregate's events. Versions of a stream are dense from 1; one appender wins.
//!
//! The state lies beside the stream as a snapshot, written at each append, so loading is one row; a snapshot of
//! another `STATE_VERSION` is rebuilt from the events. Called on the connection of a handler's `Tx`, an append
//! commits with the delivery.

use std::marker::PhantomData;

use aqueduct_core::{Aggregate, EventSet, cloudevents};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::StoreError;

/// The event store of one kind of aggregate.
#[derive(Debug, Clone, Copy)]
pub struct EventStore<A>(PhantomData<fn() -> A>);

/// What a command led to: the events that happened, or the aggregate's refusal.
type Decision<A> = Result<Vec<<A as Aggregate>::Event>, <A as Aggregate>::Refusal>;

/// An aggregate as it is stored.
struct Loaded<A> {
    /// The stream's row, or none where it has no event.
    id: Option<i64>,
    state: A,
    /// How many events its stream holds: the version of the last one, 0 before the first.
    version: i64,
}

impl<A: Aggregate> EventStore<A> {
    /// Loads the aggregate, decides, appends what happened. `initial` is its state before any event. Refused,
    /// nothing is written. On the connection of a turn (a `Tx`, or `Database::write`) nobody else can append in
    /// between.
    ///
    /// # Errors
    /// The stream does not decode, an event does not encode, someone else appended in between, or a statement failed.
    pub fn execute(
        conn: &Connection,
        stream: &str,
        initial: A,
        command: A::Command,
    ) -> Result<Decision<A>, StoreError> {
        let loaded = find(conn, stream, initial)?;
        let events = match loaded.state.decide(command) {
            Ok(events) => events,
            Err(refusal) => return Ok(Err(refusal)),
        };
        append(conn, stream, loaded, &events)?;
        Ok(Ok(events))
    }
}

fn sql(stream: &str, source: rusqlite::Error) -> StoreError {
    StoreError::Sql { stream: stream.to_owned(), source }
}

fn find<A: Aggregate>(conn: &Connection, stream: &str, initial: A) -> Result<Loaded<A>, StoreError> {
    let mut select = conn
        .prepare_cached("SELECT id, version, state_version, snapshot FROM aqueduct_stream WHERE name = ?1")
        .map_err(|source| sql(stream, source))?;
    let head: Option<(i64, i64, Option<A>)> = select
        .query_row([stream], |row| {
            let current = row.get::<_, i64>(2)? == i64::from(A::STATE_VERSION);
            // A state that does not read is one whose version nobody raised: the events tell it anew.
            let state = if current { serde_json::from_slice(row.get_ref(3)?.as_blob()?).ok() } else { None };
            Ok((row.get(0)?, row.get(1)?, state))
        })
        .optional()
        .map_err(|source| sql(stream, source))?;
    let (id, version, state) = match head {
        None => return Ok(Loaded { id: None, state: initial, version: 0 }),
        Some((id, version, Some(state))) => (id, version, state),
        Some((id, version, None)) => (id, version, rebuild(conn, stream, id, version, initial)?),
    };
    Ok(Loaded { id: Some(id), state, version })
}

fn rebuild<A: Aggregate>(
    conn: &Connection,
    stream: &str,
    id: i64,
    version: i64,
    mut state: A,
) -> Result<A, StoreError> {
    let mut replay = || -> rusqlite::Result<Result<i64, StoreError>> {
        let mut select = conn.prepare_cached(
            "SELECT version, event_type, payload FROM aqueduct_stream_entry WHERE stream = ?1 ORDER BY version",
        )?;
        let mut rows = select.query([id])?;
        let mut last = 0;
        while let Some(row) = rows.next()? {
            let found: i64 = row.get(0)?;
            if found != last + 1 {
                let stream = stream.to_owned();
                return Ok(Err(StoreError::Gap { stream, expected: last + 1, found }));
            }
            last = found;
            let (name, event_version) = cloudevents::split_type(row.get_ref(1)?.as_str()?);
            match A::Event::read(name, event_version, row.get_ref(2)?.as_bytes()?) {
                Ok(event) => state.evolve(&event),
                Err(source) => {
                    return Ok(Err(StoreError::Decode { stream: stream.to_owned(), version: found, source }));
                }
            }
        }
        Ok(Ok(last))
    };
    let last = replay().map_err(|source| sql(stream, source))??;
    if last != version {
        return Err(StoreError::Gap { stream: stream.to_owned(), expected: version, found: last });
    }
    Ok(state)
}

fn append<A: Aggregate>(
    conn: &Connection,
    stream: &str,
    loaded: Loaded<A>,
    events: &[A::Event],
) -> Result<(), StoreError> {
    let Loaded { id, mut state, version: before } = loaded;
    if events.is_empty() {
        return Ok(());
    }
    let mut drafts = Vec::with_capacity(events.len());
    for event in events {
        drafts
            .push(event.draft().map_err(|source| StoreError::Encode { stream: stream.to_owned(), source })?);
        state.evolve(event);
    }
    let snapshot = serde_json::to_vec(&state)
        .map_err(|source| StoreError::Snapshot { stream: stream.to_owned(), source })?;
    let write = || -> rusqlite::Result<bool> {
        // The stream's row first, with the version it will have: it is what a second appender conflicts with.
        let added = i64::try_from(drafts.len()).unwrap_or(i64::MAX);
        let id = match id {
            Some(id) => {
                let raised = conn
                    .prepare_cached(
                        "UPDATE aqueduct_stream SET version = ?2, state_version = ?3, snapshot = ?4
                         WHERE id = ?1 AND version = ?5",
                    )?
                    .execute(params![id, before + added, A::STATE_VERSION, snapshot, before])?;
                (raised == 1).then_some(id)
            }
            None => conn
                .prepare_cached(
                    "INSERT INTO aqueduct_stream (name, version, state_version, snapshot) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO NOTHING RETURNING id",
                )?
                .query_row(params![stream, added, A::STATE_VERSION, snapshot], |row| row.get(0))
                .optional()?,
        };
        let Some(id) = id else { return Ok(false) };
        let mut insert = conn.prepare_cached(
            "INSERT INTO aqueduct_stream_entry (stream, version, event_type, payload) VALUES (?1, ?2, ?3, ?4)",
        )?;
        let mut version = before;
        for draft in &drafts {
            version += 1;
            let event = draft.info().event;
            if event.version == 1 {
                insert.execute(params![id, version, event.name, draft.payload()])?;
            } else {
                insert.execute(params![id, version, event.to_string(), draft.payload()])?;
            }
        }
        Ok(true)
    };
    if write().map_err(|source| sql(stream, source))? {
        return Ok(());
    }
    let found = conn
        .prepare_cached("SELECT version FROM aqueduct_stream WHERE name = ?1")
        .and_then(|mut select| select.query_row([stream], |row| row.get(0)).optional())
        .map_err(|source| sql(stream, source))?;
    Err(StoreError::Conflict { stream: stream.to_owned(), expected: before, found: found.unwrap_or(0) })
}
