//! The HTTP API.

use aqueduct::{Database, Problem};
use axum::{Json, Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};
use shop_events::{Sku, StoreId};
use shop_http::{Limit, Path, Query};

use crate::store::{self, ShelfRow, Summary};

/// The routes of the API:
///
/// | path | answer |
/// | --- | --- |
/// | `/stores/{store}/products/{sku}` | one shelf: stock, sold, refused, replenished, depleted |
/// | `/stores/{store}/depleted?limit=` | the empty shelves of a store |
/// | `/summary` | what inventory did so far |
pub(crate) fn routes(database: Database) -> Router {
    Router::new()
        .route("/stores/{store}/products/{sku}", get(shelf))
        .route("/stores/{store}/depleted", get(depleted))
        .route("/summary", get(summary))
        .with_state(database)
}

async fn shelf(
    State(database): State<Database>,
    Path((store, sku)): Path<(StoreId, Sku)>,
) -> Result<Json<ShelfRow>, Problem> {
    store::shelf(&database, store, sku)
        .await
        .map_err(|error| Problem::internal(&error))?
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("store {store} has sold nothing of product {sku} yet")))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    limit: Limit,
}

#[derive(Serialize)]
struct Depleted {
    store: StoreId,
    total: i64,
    products: Vec<u32>,
}

async fn depleted(
    State(database): State<Database>,
    Path(store): Path<StoreId>,
    Query(page): Query<Page>,
) -> Result<Json<Depleted>, Problem> {
    let (total, products) = store::depleted(&database, store, page.limit.get())
        .await
        .map_err(|error| Problem::internal(&error))?;
    Ok(Json(Depleted { store, total, products }))
}

async fn summary(State(database): State<Database>) -> Result<Json<Summary>, Problem> {
    store::summary(&database).await.map(Json).map_err(|error| Problem::internal(&error))
}
