//! The event store: dense versions, one appender wins, snapshots that can be rebuilt.

use aqueduct_core::{Aggregate, DecodeError, Event, EventInfo, EventType, Key, event::decode_json};
use aqueduct_sql::{Database, EventStore, StoreError, rusqlite::Connection};
use serde::{Deserialize, Serialize};

use crate::support::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Deposited {
    cents: i64,
}

#[derive(Deserialize)]
struct DepositedV1 {
    euros: i64,
}

impl Event for Deposited {
    const INFO: EventInfo =
        EventInfo { event: EventType::new("bank.Deposited", 2), topic: "bank.deposits", key: None };
    fn key(&self) -> Option<Key> {
        None
    }
    fn decode(version: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        match version {
            1 => serde_json::from_slice::<DepositedV1>(payload)
                .map(|old| Self { cents: old.euros * 100 })
                .map_err(|source| DecodeError::Payload { event: Self::INFO.event, source }),
            2 => decode_json(payload),
            version => Err(DecodeError::NewerVersion { event: Self::INFO.event, version }),
        }
    }
}

enum Command {
    Deposit(Vec<i64>),
    /// Is refused, with the total.
    Tell,
    /// Deposits one, after something that happens between loading and appending.
    Meanwhile(Box<dyn FnOnce()>),
}

macro_rules! account {
    ($name:ident, $version:literal, $factor:literal) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
        struct $name {
            total: i64,
        }

        impl Aggregate for $name {
            const STATE_VERSION: u32 = $version;
            type Command = Command;
            type Event = Deposited;
            type Refusal = i64;

            fn decide(&self, command: Command) -> Result<Vec<Deposited>, i64> {
                match command {
                    Command::Deposit(deposits) => {
                        Ok(deposits.into_iter().map(|cents| Deposited { cents }).collect())
                    }
                    Command::Tell => Err(self.total),
                    Command::Meanwhile(act) => {
                        act();
                        Ok(vec![Deposited { cents: 1 }])
                    }
                }
            }

            fn evolve(&mut self, event: &Deposited) {
                self.total += event.cents * $factor;
            }
        }
    };
}
account!(Account, 1, 1);
account!(Tenfold, 2, 10);

async fn in_turn<T: Send>(run: impl FnOnce(&Connection) -> T + Send) -> T {
    let fixture = fixture().await;
    fixture.db.write(|conn| Ok(run(conn))).await.unwrap()
}

fn deposit_each<A: Aggregate<Command = Command, Event = Deposited> + Default>(
    conn: &Connection,
    stream: &str,
    deposits: Vec<i64>,
) -> Vec<Deposited>
where
    A::Refusal: std::fmt::Debug,
{
    EventStore::execute(conn, stream, A::default(), Command::Deposit(deposits)).unwrap().unwrap()
}

/// The total, as a refused command sees it.
fn total<A: Aggregate<Command = Command, Refusal = i64, Event = Deposited> + Default>(
    conn: &Connection,
    stream: &str,
) -> Result<i64, StoreError> {
    EventStore::execute(conn, stream, A::default(), Command::Tell).map(Result::unwrap_err)
}

fn version(conn: &Connection, stream: &str) -> i64 {
    conn.query_row("SELECT coalesce(max(version), 0) FROM aqueduct_stream WHERE name = ?1", [stream], |row| {
        row.get(0)
    })
    .unwrap()
}

/// R6. Red when `append` does not count its versions from the stream's.
#[tokio::test]
async fn versions_are_dense_and_states_add_up() {
    in_turn(|conn| {
        for (number, deposits) in [vec![1, 2], vec![], vec![3]].into_iter().enumerate() {
            let count = deposits.len();
            assert_eq!(deposit_each::<Account>(conn, "a/1", deposits).len(), count, "{number}");
        }
        deposit_each::<Account>(conn, "a/2", vec![7]);
        assert_eq!((total::<Account>(conn, "a/1").unwrap(), version(conn, "a/1")), (6, 3));
        assert_eq!((total::<Account>(conn, "a/9").unwrap(), version(conn, "a/9")), (0, 0));
        let mut select = conn
            .prepare(
                "SELECT stream, version, event_type, CAST(payload AS TEXT) FROM aqueduct_stream_event
                 ORDER BY stream, version",
            )
            .unwrap();
        let rows: Vec<String> = select
            .query_map([], |row| {
                let (stream, version): (String, i64) = (row.get(0)?, row.get(1)?);
                Ok(format!("{stream} {version} {} {}", row.get::<_, String>(2)?, row.get::<_, String>(3)?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            rows,
            [
                r#"a/1 1 bank.Deposited.v2 {"cents":1}"#,
                r#"a/1 2 bank.Deposited.v2 {"cents":2}"#,
                r#"a/1 3 bank.Deposited.v2 {"cents":3}"#,
                r#"a/2 1 bank.Deposited.v2 {"cents":7}"#,
            ]
        );
    })
    .await;
}

/// R6. Two appenders decide on the same version, outside a turn, where nothing else keeps them apart: the second gets
/// a conflict and leaves nothing. Red when `append` does not compare the versions, or replaces a stream's row.
#[tokio::test]
async fn one_appender_wins() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("service.db");
    Database::open(&path, SCHEMA).await.unwrap().close().await;
    let conn = std::rc::Rc::new(Connection::open(&path).unwrap());
    for seen in [0, 1] {
        let other = std::rc::Rc::clone(&conn);
        let meanwhile = Command::Meanwhile(Box::new(move || {
            deposit_each::<Account>(&other, "a/1", vec![10]);
        }));
        let lost = EventStore::execute(&conn, "a/1", Account::default(), meanwhile).unwrap_err();
        assert!(
            matches!(&lost, StoreError::Conflict { stream, expected, found }
                if stream == "a/1" && *expected == seen && *found == seen + 1),
            "{lost}"
        );
        assert_eq!(
            (total::<Account>(&conn, "a/1").unwrap(), version(&conn, "a/1")),
            (10 * (seen + 1), seen + 1)
        );
    }
    let entries: i64 =
        conn.query_row("SELECT count(*) FROM aqueduct_stream_entry", [], |row| row.get(0)).unwrap();
    assert_eq!(entries, 2);
}

/// R6, P8. Red when a snapshot of another state version is used, or stored versions are not upcast.
#[tokio::test]
async fn a_state_of_another_version_is_rebuilt_from_the_events() {
    in_turn(|conn| {
        deposit_each::<Account>(conn, "a/1", vec![1, 2]);
        conn.execute(
            "UPDATE aqueduct_stream_entry SET event_type = 'bank.Deposited', payload = '{\"euros\":5}' WHERE version = 1",
            [],
        )
        .unwrap();
        assert_eq!(total::<Account>(conn, "a/1").unwrap(), 3);
        assert_eq!((total::<Tenfold>(conn, "a/1").unwrap(), version(conn, "a/1")), (5_020, 2));
        deposit_each::<Tenfold>(conn, "a/1", vec![1]);
        assert_eq!(total::<Tenfold>(conn, "a/1").unwrap(), 5_030);
        // And back, as in a rolled back deployment.
        assert_eq!(total::<Account>(conn, "a/1").unwrap(), 503);

        conn.execute("DELETE FROM aqueduct_stream_entry WHERE version = 2", []).unwrap();
        assert!(matches!(total::<Account>(conn, "a/1"), Err(StoreError::Gap { expected: 2, found: 3, .. })));
        conn.execute("UPDATE aqueduct_stream_entry SET event_type = 'bank.Deposited.v9' WHERE version = 1", []).unwrap();
        let error = total::<Account>(conn, "a/1").unwrap_err();
        assert!(matches!(error, StoreError::Decode { version: 1, .. }), "{error}");
    })
    .await;
}
