//! What baskets and depletions teach.

use aqueduct::{Draft, EventId};
use serde_json::{Value, json};
use shop_events::{
    BasketId, Sku, StoreId,
    inventory::{StockDepleted, StockReplenished, StockReserved},
    recommendation::RestockAdvised,
    till::BasketCheckedOutV1,
};
use shop_testing::{Running, Town, basket, settled};

use crate::start;

const STORE: StoreId = StoreId(330);

/// Products in the order of the answer, with how often they were bought together.
async fn recommended(service: &Running, path: &str) -> Vec<(u64, u64)> {
    let answer = service.get(path).await;
    let number = |value: &Value| value.as_u64().unwrap();
    answer["recommended"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| (number(&each["sku"]), number(&each["together"])))
        .collect()
}

/// Red when a pair is counted in one direction only, or the products asked for are in the answer.
#[tokio::test]
async fn recommends_what_is_bought_together() {
    let town = Town::new().await;
    let (service, _database) = start(&town).await;
    for (number, lines) in
        [(1, &[(10, 1), (20, 9), (30, 1)][..]), (2, &[(20, 1), (10, 2)]), (3, &[(20, 1), (40, 1)])]
    {
        town.bus.publish(&basket(number, 330, lines)).await.unwrap();
    }
    settled(&[&service]).await;
    assert_eq!(recommended(&service, "/products/20?store=330").await, [(10, 2), (30, 1), (40, 1)]);
    assert_eq!(recommended(&service, "/products/10?store=1").await, [(20, 2), (30, 1)]);
    assert_eq!(recommended(&service, "/products/20?store=330&limit=1").await, [(10, 2)]);
    assert_eq!(recommended(&service, "/products/99?store=330").await, []);
    assert_eq!(recommended(&service, "/baskets?store=330&skus=10,30").await, [(20, 3)]);
    assert_eq!(recommended(&service, "/baskets?store=330&skus=20,20").await, [(10, 2), (30, 1), (40, 1)]);
    // It bought all four, so nothing is left to recommend.
    assert_eq!(recommended(&service, "/households/900?store=330").await, []);

    let mut other = basket(4, 330, &[(40, 1)]);
    other.household = shop_events::HouseholdId(901);
    town.bus.publish(&other).await.unwrap();
    settled(&[&service]).await;
    assert_eq!(recommended(&service, "/households/901?store=330").await, [(20, 1)]);
    service.stop().await;
}

/// Red when answers do not ask what is depleted, or `StockReplenished` is ignored.
#[tokio::test]
async fn what_is_depleted_is_left_out_until_it_is_replenished() {
    let town = Town::new().await;
    let (service, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(10, 1), (20, 1), (30, 1)])).await.unwrap();
    let depleted = StockDepleted { store: STORE, sku: Sku(20), basket: BasketId(1), refused: 0 };
    let reserved = StockReserved { store: STORE, sku: Sku(20), basket: BasketId(1), quantity: 1 };
    town.bus.publish(&reserved).await.unwrap();
    town.bus.publish(&depleted).await.unwrap();
    settled(&[&service]).await;
    assert_eq!(recommended(&service, "/products/10?store=330").await, [(30, 1)]);
    assert_eq!(recommended(&service, "/baskets?store=330&skus=10").await, [(30, 1)]);
    assert_eq!(
        recommended(&service, "/products/10?store=331").await,
        [(20, 1), (30, 1)],
        "another store has it"
    );
    assert_eq!(
        service.get("/depleted?store=330").await,
        json!({ "store": 330, "total": 1, "products": [20] })
    );

    town.bus.publish(&StockReplenished { store: STORE, sku: Sku(20), quantity: 6 }).await.unwrap();
    settled(&[&service]).await;
    assert_eq!(recommended(&service, "/products/10?store=330").await, [(20, 1), (30, 1)]);
    assert_eq!(service.get("/depleted?store=330").await, json!({ "store": 330, "total": 0, "products": [] }));
    service.stop().await;
}

/// Red when the advice does not follow the demand.
#[tokio::test]
async fn advises_two_weeks_of_the_observed_demand() {
    let town = Town::new().await;
    let (service, _database) = start(&town).await;
    // One unit a day for 28 days; the last two by an old till.
    let mut day = basket(0, 330, &[(20, 1)]);
    for number in 1..=28 {
        day.basket = BasketId(number);
        if number < 27 {
            town.bus.publish(&day).await.unwrap();
        } else {
            let old = BasketCheckedOutV1::without_amounts(&day);
            town.bus.publish(&old).await.unwrap();
        }
        day.at = aqueduct::Timestamp::from_micros(day.at.as_micros() + 86_400_000_000);
    }
    settled(&[&service]).await;
    for sku in [20, 30] {
        let event = StockDepleted { store: STORE, sku: Sku(sku), basket: BasketId(28), refused: 0 };
        town.bus.publish(&event).await.unwrap();
    }
    settled(&[&service]).await;
    let mut advice = town.events::<RestockAdvised>().await;
    advice.sort_by_key(|event| event.sku);
    let advised =
        |sku, quantity| RestockAdvised { store: STORE, sku: Sku(sku), quantity, depleted_by: BasketId(28) };
    // 14 units are three cases; of product 30 nobody wanted anything yet.
    assert_eq!(advice, [advised(20, 18), advised(30, 6)]);
    assert_eq!(
        service.get("/summary").await,
        json!({
            "baskets_handled": 28, "pairs": 0, "households": 1, "shelves_depleted": 2,
            "events_published": { "recommendation.RestockAdvised": 2 },
        })
    );
    service.stop().await;
}

/// P4. Red when event ids leave no mark, or the basket's number is not noted.
#[tokio::test]
async fn a_basket_is_learnt_once() {
    let town = Town::new().await;
    let (service, database) = start(&town).await;
    let one = basket(1, 330, &[(10, 1), (20, 1)]);
    let id = EventId::of_name("till", "1");
    for _ in 0..2 {
        town.bus.publish(Draft::of(&one).unwrap().id(id.clone())).await.unwrap();
    }
    // The same basket under another event's id is a till's mistake: set aside, without effect.
    town.bus.publish(&one).await.unwrap();
    settled(&[&service]).await;
    assert_eq!(recommended(&service, "/products/10?store=330").await, [(20, 1)]);
    assert_eq!(recommendation::summary(&database).await.unwrap().baskets_handled, 1);
    assert_eq!(service.dead_letters(), 1);
    service.stop().await;
}
