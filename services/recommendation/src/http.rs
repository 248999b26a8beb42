//! The HTTP API.

use aqueduct::{Database, DatabaseError, Problem};
use axum::{Json, Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};
use shop_events::{HouseholdId, Sku, StoreId};
use shop_http::{Limit, Path, Query};

use crate::store::{self, Companion, Summary};

/// The routes of the API. Each answers what `store` has, most often bought together first:
///
/// | path | answer |
/// | --- | --- |
/// | `/products/{sku}?store=&limit=` | what is bought together with a product |
/// | `/baskets?store=&skus=1,2,3&limit=` | what is bought together with these products |
/// | `/households/{household}?store=&limit=` | what is bought together with the ten products that it bought most |
/// | `/depleted?store=&limit=` | what is left out for the store |
/// | `/summary` | what recommendation did so far |
pub(crate) fn routes(database: Database) -> Router {
    Router::new()
        .route("/products/{sku}", get(by_product))
        .route("/baskets", get(by_basket))
        .route("/households/{household}", get(by_household))
        .route("/depleted", get(depleted))
        .route("/summary", get(summary))
        .with_state(database)
}

#[derive(Deserialize)]
struct Page {
    store: StoreId,
    #[serde(default)]
    limit: Limit,
}

#[derive(Deserialize)]
struct BasketQuery {
    store: StoreId,
    skus: Basket,
    #[serde(default)]
    limit: Limit,
}

/// The products of a basket, as `1,2,3`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Basket(Vec<Sku>);

impl Basket {
    /// As many as the query may cost.
    const MOST: usize = 50;
}

impl TryFrom<String> for Basket {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let skus: Vec<Sku> = text
            .split(',')
            .take(Self::MOST + 1)
            .map(|sku| sku.parse().map_err(|_| format!("{sku:?} is not the number of a product")))
            .collect::<Result<_, _>>()?;
        if skus.len() > Self::MOST {
            return Err(format!("a basket has at most {} products here", Self::MOST));
        }
        Ok(Self(skus))
    }
}

#[derive(Serialize)]
struct Recommended {
    store: StoreId,
    recommended: Vec<Companion>,
}

async fn by_product(
    State(database): State<Database>,
    Path(sku): Path<Sku>,
    Query(page): Query<Page>,
) -> Result<Json<Recommended>, Problem> {
    let recommended =
        store::companions(&database, page.store, vec![sku], page.limit.get()).await.map_err(internal)?;
    Ok(Json(Recommended { store: page.store, recommended }))
}

async fn by_basket(
    State(database): State<Database>,
    Query(BasketQuery { store, skus, limit }): Query<BasketQuery>,
) -> Result<Json<Recommended>, Problem> {
    let recommended = store::companions(&database, store, skus.0, limit.get()).await.map_err(internal)?;
    Ok(Json(Recommended { store, recommended }))
}

async fn by_household(
    State(database): State<Database>,
    Path(household): Path<HouseholdId>,
    Query(page): Query<Page>,
) -> Result<Json<Recommended>, Problem> {
    let recommended = store::companions_of_household(&database, page.store, household, page.limit.get())
        .await
        .map_err(internal)?
        .ok_or_else(|| Problem::not_found(format!("household {household} has bought nothing yet")))?;
    Ok(Json(Recommended { store: page.store, recommended }))
}

#[derive(Serialize)]
struct Depleted {
    store: StoreId,
    total: i64,
    products: Vec<u32>,
}

async fn depleted(
    State(database): State<Database>,
    Query(page): Query<Page>,
) -> Result<Json<Depleted>, Problem> {
    let (total, products) =
        store::depleted(&database, page.store, page.limit.get()).await.map_err(internal)?;
    Ok(Json(Depleted { store: page.store, total, products }))
}

async fn summary(State(database): State<Database>) -> Result<Json<Summary>, Problem> {
    store::summary(&database).await.map(Json).map_err(internal)
}

#[allow(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn internal(error: DatabaseError) -> Problem {
    Problem::internal(&error)
}
