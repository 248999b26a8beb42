//! All SQL of recommendation.

use std::{collections::BTreeMap, path::Path};

use aqueduct::{
    Database, DatabaseError,
    rusqlite::{self, Connection, OptionalExtension, params},
};
use serde::Serialize;
use shop_events::{HouseholdId, Sku, StoreId};

use crate::learning::Demand;

/// Opens the database file, which is made if it is not there.
///
/// # Errors
/// The file cannot be opened, or is of another program.
pub async fn open(path: impl AsRef<Path>) -> Result<Database, DatabaseError> {
    Database::open(path, include_str!("schema.sql")).await
}

/// What recommendation did so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Baskets that it learnt from.
    pub baskets_handled: i64,
    /// Pairs of products that were bought together.
    pub pairs: i64,
    /// Households that bought something.
    pub households: i64,
    /// Shelves that are empty, by what inventory said.
    pub shelves_depleted: i64,
    /// Published events by type.
    pub events_published: BTreeMap<String, i64>,
}

/// A product that was bought together with what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Companion {
    sku: u32,
    /// In how many baskets, summed over the products asked for.
    together: i64,
}

/// Adds to what a store's customers wanted.
pub(crate) fn add_demand(
    conn: &Connection,
    store: StoreId,
    sku: Sku,
    units: i64,
    day: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO demand (store, sku, units, first_day, last_day) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT DO UPDATE SET
             units = units + ?3, first_day = min(first_day, ?4), last_day = max(last_day, ?4)",
    )?
    .execute(params![store.0, sku.0, units, day])?;
    Ok(())
}

/// Adds to what a household bought.
pub(crate) fn add_purchase(
    conn: &Connection,
    household: HouseholdId,
    sku: Sku,
    units: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO household_product (household, sku, units) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET units = units + ?3",
    )?
    .execute(params![household.0, sku.0, units])?;
    Ok(())
}

/// Counts that two products were in one basket; `a` is the smaller.
pub(crate) fn add_pair(conn: &Connection, a: Sku, b: Sku) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO pair (a, b, count) VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET count = count + 1",
    )?
    .execute(params![a.0, b.0])?;
    Ok(())
}

/// Notes a basket. `false`: it was noted before.
pub(crate) fn note_basket(
    conn: &Connection,
    basket: i64,
    store: StoreId,
    units: i64,
) -> rusqlite::Result<bool> {
    let noted = conn
        .prepare_cached("INSERT INTO basket (id, store, units) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![basket, store.0, units])?;
    Ok(noted == 1)
}

/// What customers wanted of a product in a store.
pub(crate) fn demand(conn: &Connection, store: StoreId, sku: Sku) -> rusqlite::Result<Option<Demand>> {
    conn.prepare_cached("SELECT units, first_day, last_day FROM demand WHERE store = ?1 AND sku = ?2")?
        .query_row([store.0, sku.0], |row| {
            Ok(Demand { units: row.get(0)?, first_day: row.get(1)?, last_day: row.get(2)? })
        })
        .optional()
}

/// Marks a product as not there; marking twice is marking once.
pub(crate) fn mark_depleted(conn: &Connection, store: StoreId, sku: Sku) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO depleted (store, sku) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute([store.0, sku.0])?;
    Ok(())
}

/// Takes that mark away.
pub(crate) fn unmark_depleted(conn: &Connection, store: StoreId, sku: Sku) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM depleted WHERE store = ?1 AND sku = ?2")?.execute([store.0, sku.0])?;
    Ok(())
}

/// What is bought together with these products and is there in that store, most often first.
pub(crate) async fn companions(
    database: &Database,
    store: StoreId,
    chosen: Vec<Sku>,
    limit: u32,
) -> Result<Vec<Companion>, DatabaseError> {
    database.read(move |conn| companions_of(conn, store, &chosen, limit)).await
}

/// As [`companions`], of the products that a household bought most; none where it bought nothing.
pub(crate) async fn companions_of_household(
    database: &Database,
    store: StoreId,
    household: HouseholdId,
    limit: u32,
) -> Result<Option<Vec<Companion>>, DatabaseError> {
    database
        .read(move |conn| {
            let favourites = conn
                .prepare_cached(
                    "SELECT sku FROM household_product WHERE household = ?1 ORDER BY units DESC, sku LIMIT 10",
                )?
                .query_map([household.0], |row| row.get(0).map(Sku))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            if favourites.is_empty() {
                return Ok(None);
            }
            companions_of(conn, store, &favourites, limit).map(Some)
        })
        .await
}

fn companions_of(
    conn: &Connection,
    store: StoreId,
    chosen: &[Sku],
    limit: u32,
) -> rusqlite::Result<Vec<Companion>> {
    let chosen = format!("[{}]", chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    conn.prepare_cached(
        "WITH chosen (sku) AS MATERIALIZED (SELECT DISTINCT value FROM json_each(?2)),
              companion (sku, count) AS (
                  SELECT b, count FROM chosen CROSS JOIN pair ON a = chosen.sku
                  UNION ALL
                  SELECT a, count FROM chosen CROSS JOIN pair ON b = chosen.sku)
         SELECT sku, sum(count) AS together FROM companion
         WHERE sku NOT IN (SELECT sku FROM chosen)
             AND NOT EXISTS (SELECT 1 FROM depleted WHERE store = ?1 AND depleted.sku = companion.sku)
         GROUP BY sku ORDER BY together DESC, sku LIMIT ?3",
    )?
    .query_map(params![store.0, chosen, limit], |row| {
        Ok(Companion { sku: row.get(0)?, together: row.get(1)? })
    })?
    .collect()
}

/// How many products are not there in a store, and the first `limit` of them.
pub(crate) async fn depleted(
    database: &Database,
    store: StoreId,
    limit: u32,
) -> Result<(i64, Vec<u32>), DatabaseError> {
    database
        .read(move |conn| {
            let total = conn
                .prepare_cached("SELECT count(*) FROM depleted WHERE store = ?1")?
                .query_row([store.0], |row| row.get(0))?;
            let skus = conn
                .prepare_cached("SELECT sku FROM depleted WHERE store = ?1 ORDER BY sku LIMIT ?2")?
                .query_map([store.0, limit], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((total, skus))
        })
        .await
}

/// Sums up what recommendation did so far.
///
/// # Errors
/// The database cannot be read.
pub async fn summary(database: &Database) -> Result<Summary, DatabaseError> {
    database
        .read(|conn| {
            // One transaction: all figures are of one moment.
            let conn = conn.unchecked_transaction()?;
            let events_published = conn
                .prepare_cached("SELECT event_type, count FROM aqueduct_published")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            conn.query_row(
                "SELECT (SELECT count(*) FROM basket), (SELECT count(*) FROM pair),
                        (SELECT count(DISTINCT household) FROM household_product), (SELECT count(*) FROM depleted)",
                [],
                |row| {
                    Ok(Summary {
                        baskets_handled: row.get(0)?,
                        pairs: row.get(1)?,
                        households: row.get(2)?,
                        shelves_depleted: row.get(3)?,
                        events_published,
                    })
                },
            )
        })
        .await
}
