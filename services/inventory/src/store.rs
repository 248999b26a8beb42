//! All SQL of inventory: the streams of the shelves, the shelves as readers see them, the baskets.

use std::{collections::BTreeMap, path::Path};

use aqueduct::{
    Database, DatabaseError, EventStore, StoreError,
    rusqlite::{self, Connection, OptionalExtension, Row, params},
};
use serde::Serialize;
use shop_events::{Sku, StoreId};

use crate::shelf::{Command, Refusal, Shelf, StockEvent, opening};

/// Opens the database file, which is made if it is not there.
///
/// # Errors
/// The file cannot be opened, or is of another program.
pub async fn open(path: impl AsRef<Path>) -> Result<Database, DatabaseError> {
    Database::open(path, include_str!("schema.sql")).await
}

/// A shelf as readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ShelfRow {
    store: u32,
    sku: u32,
    stock: u32,
    sold: i64,
    refused: i64,
    replenished: i64,
    depleted: bool,
}

/// What happened to a shelf, in units.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    pub(crate) sold: u32,
    pub(crate) refused: u32,
    pub(crate) replenished: u32,
}

/// What inventory did so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Baskets that took effect.
    pub baskets_handled: i64,
    /// Units that left the shelves.
    pub units_sold: i64,
    /// Units that were wanted and not there.
    pub units_refused: i64,
    /// Shelves that sold something.
    pub shelves: i64,
    /// Shelves that are empty now.
    pub shelves_depleted: i64,
    /// Published events by type.
    pub events_published: BTreeMap<String, i64>,
}

/// Puts a command to a shelf and appends what it decides to its stream.
pub(crate) fn execute(
    conn: &Connection,
    store: StoreId,
    sku: Sku,
    command: Command,
) -> Result<Result<Vec<StockEvent>, Refusal>, StoreError> {
    let stream = format!("shelf/{store}/{sku}");
    EventStore::<Shelf>::execute(conn, &stream, Shelf::opening(store, sku), command)
}

/// Shows readers what happened to a shelf.
pub(crate) fn show(conn: &Connection, store: StoreId, sku: Sku, change: Change) -> rusqlite::Result<()> {
    let Change { sold, refused, replenished } = change;
    // Not an upsert: the row that would be inserted is checked before the conflict is seen, and without what was
    // replenished earlier its stock can be negative.
    let shown = conn
        .prepare_cached(
            "UPDATE shelf SET stock = stock + ?5 - ?3, sold = sold + ?3, refused = refused + ?4,
                 replenished = replenished + ?5
             WHERE store = ?1 AND sku = ?2",
        )?
        .execute(params![store.0, sku.0, sold, refused, replenished])?;
    if shown == 0 {
        conn.prepare_cached(
            "INSERT INTO shelf (store, sku, stock, sold, refused, replenished)
             VALUES (?1, ?2, ?3 + ?6 - ?4, ?4, ?5, ?6)",
        )?
        .execute(params![store.0, sku.0, opening(sku), sold, refused, replenished])?;
    }
    Ok(())
}

/// Notes a basket. `false`: it was noted before.
pub(crate) fn note_basket(
    conn: &Connection,
    basket: i64,
    store: StoreId,
    units_sold: i64,
    units_refused: i64,
) -> rusqlite::Result<bool> {
    let noted = conn
        .prepare_cached(
            "INSERT INTO basket (id, store, units_sold, units_refused) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![basket, store.0, units_sold, units_refused])?;
    Ok(noted == 1)
}

/// A shelf, or none where nothing was sold yet.
pub(crate) async fn shelf(
    database: &Database,
    store: StoreId,
    sku: Sku,
) -> Result<Option<ShelfRow>, DatabaseError> {
    database
        .read(move |conn| {
            conn.prepare_cached(
                "SELECT store, sku, stock, sold, refused, replenished FROM shelf WHERE store = ?1 AND sku = ?2",
            )?
            .query_row(params![store.0, sku.0], shelf_row)
            .optional()
        })
        .await
}

fn shelf_row(row: &Row<'_>) -> rusqlite::Result<ShelfRow> {
    let stock = row.get(2)?;
    Ok(ShelfRow {
        store: row.get(0)?,
        sku: row.get(1)?,
        stock,
        sold: row.get(3)?,
        refused: row.get(4)?,
        replenished: row.get(5)?,
        depleted: stock == 0,
    })
}

/// How many shelves of a store are empty, and the first `limit` of them by product.
pub(crate) async fn depleted(
    database: &Database,
    store: StoreId,
    limit: u32,
) -> Result<(i64, Vec<u32>), DatabaseError> {
    database
        .read(move |conn| {
            let total = conn
                .prepare_cached("SELECT count(*) FROM shelf WHERE store = ?1 AND stock = 0")?
                .query_row([store.0], |row| row.get(0))?;
            let skus = conn
                .prepare_cached("SELECT sku FROM shelf WHERE store = ?1 AND stock = 0 ORDER BY sku LIMIT ?2")?
                .query_map([store.0, limit], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((total, skus))
        })
        .await
}

/// Sums up what inventory did so far.
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
                "SELECT count(*), coalesce(sum(units_sold), 0), coalesce(sum(units_refused), 0),
                        (SELECT count(*) FROM shelf), (SELECT count(*) FROM shelf WHERE stock = 0)
                 FROM basket",
                [],
                |row| {
                    Ok(Summary {
                        baskets_handled: row.get(0)?,
                        units_sold: row.get(1)?,
                        units_refused: row.get(2)?,
                        shelves: row.get(3)?,
                        shelves_depleted: row.get(4)?,
                        events_published,
                    })
                },
            )
        })
        .await
}
