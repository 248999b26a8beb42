//! The two services in conversation, by events alone.

use serde_json::{Value, json};
use shop_events::{BasketId, Sku, StoreId, inventory::StockReplenished, recommendation::RestockAdvised};
use shop_testing::{Running, Town, basket, settled};

use crate::start;

async fn depleted(inventory: &Running) -> Value {
    inventory.get("/stores/330/depleted").await["products"].clone()
}

/// Red when inventory orders by itself.
#[tokio::test]
async fn without_recommendation_what_is_depleted_stays_depleted() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 6), (8, 7)])).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(depleted(&inventory).await, json!([4, 8]));

    town.bus.publish(&basket(2, 330, &[(4, 1), (8, 1)])).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(depleted(&inventory).await, json!([4, 8]));
    assert_eq!(inventory.get("/summary").await["units_refused"], 3);
    assert_eq!(town.events::<StockReplenished>().await, []);
    inventory.stop().await;
}

/// Red when inventory does not read advice, or recommendation gives none.
#[tokio::test]
async fn with_recommendation_what_is_depleted_comes_back() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 6), (5, 1)])).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(depleted(&inventory).await, json!([4]));

    let database = recommendation::open(town.file("recommendation.db")).await.unwrap();
    let recommendation = Running::start(recommendation::app(&town.bus, &database));
    settled(&[&inventory, &recommendation]).await;
    assert_eq!(depleted(&inventory).await, json!([]));
    assert_eq!(recommendation.get("/depleted?store=330").await["products"], json!([]));
    let advice = town.events::<RestockAdvised>().await;
    assert_eq!(advice.len(), 1);
    let RestockAdvised { store, sku, quantity, depleted_by } = advice[0];
    assert_eq!((store, sku, depleted_by), (StoreId(330), Sku(4), BasketId(1)));
    assert_eq!(town.events::<StockReplenished>().await, [StockReplenished { store, sku, quantity }]);
    let shelf = inventory.get("/stores/330/products/4").await;
    assert_eq!((&shelf["stock"], &shelf["replenished"]), (&json!(quantity), &json!(quantity)));

    town.bus.publish(&basket(2, 330, &[(4, 1)])).await.unwrap();
    settled(&[&inventory, &recommendation]).await;
    assert_eq!(inventory.get("/stores/330/products/4").await["sold"], 7);
    recommendation.stop().await;
    inventory.stop().await;
}

/// Red when an order is not refused by a shelf that was filled in the meantime.
#[tokio::test]
async fn advice_that_comes_twice_or_too_late_orders_nothing() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 6)])).await.unwrap();
    settled(&[&inventory]).await;
    let advice = RestockAdvised { store: StoreId(330), sku: Sku(4), quantity: 12, depleted_by: BasketId(1) };
    town.bus.publish_all([&advice, &advice]).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(inventory.get("/stores/330/products/4").await["stock"], 12);
    assert_eq!(town.events::<StockReplenished>().await.len(), 1);
    assert_eq!(inventory.dead_letters(), 0);
    inventory.stop().await;
}
