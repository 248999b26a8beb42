//! What baskets do to the shelves.

use aqueduct::{Draft, EventId};
use serde_json::json;
use shop_events::{
    BasketId, Sku, StoreId,
    inventory::{StockDepleted, StockReserved},
    till::BasketCheckedOutV1,
};
use shop_testing::{Town, basket, settled};

use crate::start;

/// P8. Red when `upcasts` is taken from `BasketCheckedOut`.
#[tokio::test]
async fn baskets_of_old_and_new_tills_are_sold() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 2), (5, 1), (4, 1)])).await.unwrap();
    town.bus.publish(&BasketCheckedOutV1::without_amounts(&basket(2, 331, &[(4, 5)]))).await.unwrap();
    settled(&[&inventory]).await;

    let shelf = |store, sku, stock, sold| {
        json!({
            "store": store, "sku": sku, "stock": stock, "sold": sold, "refused": 0, "replenished": 0, "depleted": false,
        })
    };
    assert_eq!(inventory.get("/stores/330/products/4").await, shelf(330, 4, 3, 3));
    assert_eq!(inventory.get("/stores/330/products/5").await, shelf(330, 5, 11, 1));
    assert_eq!(inventory.get("/stores/331/products/4").await, shelf(331, 4, 1, 5));
    let mut reserved = town.events::<StockReserved>().await;
    reserved.sort_by_key(|event| (event.basket, event.sku));
    let event = |basket, store, sku, quantity| StockReserved {
        store: StoreId(store),
        sku: Sku(sku),
        basket: BasketId(basket),
        quantity,
    };
    assert_eq!(reserved, [event(1, 330, 4, 3), event(1, 330, 5, 1), event(2, 331, 4, 5)]);
    inventory.stop().await;
}

/// Red when what a depleted shelf refuses is not counted, or `StockDepleted` comes with each refusal.
#[tokio::test]
async fn what_is_not_there_is_refused_and_counted() {
    let town = Town::new().await;
    let (inventory, database) = start(&town).await;
    for number in 1..=3 {
        town.bus.publish(&basket(number, 330, &[(4, 4), (5, 1)])).await.unwrap();
    }
    settled(&[&inventory]).await;

    assert_eq!(
        inventory.get("/stores/330/products/4").await,
        json!({
            "store": 330, "sku": 4, "stock": 0, "sold": 6, "refused": 6, "replenished": 0, "depleted": true,
        })
    );
    assert_eq!(
        inventory.get("/stores/330/depleted").await,
        json!({ "store": 330, "total": 1, "products": [4] })
    );
    let depleted = town.events::<StockDepleted>().await;
    assert_eq!(
        depleted,
        [StockDepleted { store: StoreId(330), sku: Sku(4), basket: BasketId(2), refused: 2 }]
    );
    let summary = json!({
        "baskets_handled": 3, "units_sold": 9, "units_refused": 6, "shelves": 2, "shelves_depleted": 1,
        "events_published": { "inventory.StockReserved": 5, "inventory.StockDepleted": 1 },
    });
    assert_eq!(inventory.get("/summary").await, summary);
    assert_eq!(serde_json::to_value(inventory::summary(&database).await.unwrap()).unwrap(), summary);
    inventory.stop().await;
}

/// P4. Red when event ids leave no mark, or the basket's number is not noted.
#[tokio::test]
async fn a_basket_takes_effect_once() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    let one = basket(1, 330, &[(4, 2)]);
    let id = EventId::of_name("till", "1");
    // The same event published twice, as a till does that did not see the answer.
    for _ in 0..2 {
        town.bus.publish(Draft::of(&one).unwrap().id(id.clone())).await.unwrap();
    }
    settled(&[&inventory]).await;
    assert_eq!(inventory.get("/stores/330/products/4").await["sold"], 2);
    assert_eq!(inventory.dead_letters(), 0);

    // The same basket under another event's id is a till's mistake: set aside, without effect.
    town.bus.publish(&one).await.unwrap();
    town.bus.publish(&basket(2, 330, &[(4, 1)])).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(inventory.get("/stores/330/products/4").await["sold"], 3);
    assert_eq!(inventory.get("/summary").await["baskets_handled"], 2);
    assert_eq!(inventory.dead_letters(), 1);
    assert_eq!(town.events::<StockReserved>().await.len(), 2);
    inventory.stop().await;
}

/// P4. Red when positions and marks are not kept in the service's database.
#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let town = Town::new().await;
    let (inventory, database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 2)])).await.unwrap();
    settled(&[&inventory]).await;
    inventory.stop().await;
    database.close().await;

    town.bus.publish(&basket(2, 330, &[(4, 1)])).await.unwrap();
    let (inventory, _database) = start(&town).await;
    settled(&[&inventory]).await;
    assert_eq!(inventory.get("/stores/330/products/4").await["sold"], 3);
    assert_eq!(inventory.get("/summary").await["baskets_handled"], 2);
    inventory.stop().await;
}
