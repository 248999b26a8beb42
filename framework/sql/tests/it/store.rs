//! The event store: dense versions, one appender wins, snapshots that can be rebuilt.

use aqueduct_core::{Aggregate, DecodeError, Event, EventInfo, EventType, Key, event::decode_json};
use aqueduct_sql::{EventStore, StoreError, Stored, rusqlite::Connection};
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

macro_rules! account {
    ($name:ident, $version:literal, $factor:literal) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
        struct $name {
            total: i64,
        }

        impl Aggregate for $name {
            const STATE_VERSION: u32 = $version;
            type Command = Vec<i64>;
            type Event = Deposited;
            type Refusal = &'static str;

            fn decide(&self, deposits: Vec<i64>) -> Result<Vec<Deposited>, &'static str> {
                if deposits.iter().any(|cents| *cents < 0) {
                    return Err("negative");
                }
                Ok(deposits.into_iter().map(|cents| Deposited { cents }).collect())
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

fn load(conn: &Connection, stream: &str) -> Result<Stored<Account>, StoreError> {
    EventStore::load(conn, stream, Account::default())
}

/// R6. Red when `append` does not count its versions from the stream's.
#[tokio::test]
async fn versions_are_dense_and_states_add_up() {
    in_turn(|conn| {
        for (number, deposits) in [vec![1, 2], vec![], vec![3]].into_iter().enumerate() {
            let count = deposits.len();
            let events = EventStore::execute(conn, "a/1", Account::default(), deposits).unwrap().unwrap();
            assert_eq!(events.len(), count, "{number}");
        }
        assert_eq!(EventStore::execute(conn, "a/1", Account::default(), vec![-1]).unwrap(), Err("negative"));
        EventStore::execute(conn, "a/2", Account::default(), vec![7]).unwrap().unwrap();
        assert_eq!(load(conn, "a/1").unwrap(), Stored { state: Account { total: 6 }, version: 3 });
        assert_eq!(load(conn, "a/9").unwrap(), Stored { state: Account { total: 0 }, version: 0 });
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

/// R6. Red when `append` does not compare the versions.
#[tokio::test]
async fn one_appender_wins() {
    in_turn(|conn| {
        let one = [Deposited { cents: 1 }];
        let seen = load(conn, "a/1").unwrap();
        let first = EventStore::append(conn, "a/1", seen.version, seen.state.clone(), &one).unwrap();
        assert_eq!(first, Stored { state: Account { total: 1 }, version: 1 });
        let lost = EventStore::append(conn, "a/1", seen.version, seen.state, &one).unwrap_err();
        assert!(
            matches!(&lost, StoreError::Conflict { stream, expected: 0, found: 1 } if stream == "a/1"),
            "{lost}"
        );
        EventStore::append(conn, "a/1", 1, first.state, &one).unwrap();
        assert_eq!(load(conn, "a/1").unwrap().version, 2);
    })
    .await;
}

/// R6, P8. Red when a snapshot of another state version is used, or stored versions are not upcast.
#[tokio::test]
async fn a_state_of_another_version_is_rebuilt_from_the_events() {
    in_turn(|conn| {
        EventStore::execute(conn, "a/1", Account::default(), vec![1, 2]).unwrap().unwrap();
        conn.execute(
            "UPDATE aqueduct_stream_entry SET event_type = 'bank.Deposited', payload = '{\"euros\":5}' WHERE version = 1",
            [],
        )
        .unwrap();
        assert_eq!(load(conn, "a/1").unwrap().state.total, 3);
        let rebuilt = EventStore::load(conn, "a/1", Tenfold::default()).unwrap();
        assert_eq!(rebuilt, Stored { state: Tenfold { total: 5_020 }, version: 2 });
        EventStore::execute(conn, "a/1", Tenfold::default(), vec![1]).unwrap().unwrap();
        assert_eq!(EventStore::load(conn, "a/1", Tenfold::default()).unwrap().state.total, 5_030);
        // And back, as in a rolled back deployment.
        assert_eq!(load(conn, "a/1").unwrap().state.total, 503);

        conn.execute("DELETE FROM aqueduct_stream_entry WHERE version = 2", []).unwrap();
        assert!(matches!(load(conn, "a/1"), Err(StoreError::Gap { expected: 2, found: 3, .. })));
        conn.execute("UPDATE aqueduct_stream_entry SET event_type = 'bank.Deposited.v9' WHERE version = 1", []).unwrap();
        let error = load(conn, "a/1").unwrap_err();
        assert!(matches!(error, StoreError::Decode { version: 1, .. }), "{error}");
    })
    .await;
}
