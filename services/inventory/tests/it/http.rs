//! The HTTP API.

use serde_json::json;
use shop_testing::{Town, basket, problem, settled};

use crate::start;

/// P12. Red when an extractor of axum is used directly.
#[tokio::test]
async fn bad_requests_are_problems() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    for (path, status, title, detail) in [
        (
            "/stores/x/products/4",
            400,
            "Bad Request",
            "Invalid URL: Cannot parse value at index 0 with value `x` to a `u32`",
        ),
        ("/stores/330/products/4", 404, "Not Found", "store 330 has sold nothing of product 4 yet"),
        ("/stores/-1/depleted", 400, "Bad Request", "Invalid URL: Cannot parse `-1` to a `u32`"),
        (
            "/stores/330/depleted?limit=0",
            400,
            "Bad Request",
            "Failed to deserialize query string: limit: a limit is 1 to 1000, not 0",
        ),
        (
            "/stores/330/depleted?limit=many",
            400,
            "Bad Request",
            "Failed to deserialize query string: limit: invalid digit found in string",
        ),
        ("/shelves", 404, "Not Found", "there is nothing at /shelves"),
    ] {
        assert_eq!(inventory.ask(path).await, problem(status, title, detail, path), "{path}");
    }
    inventory.stop().await;
}

/// Red when the list of depleted products ignores its limit.
#[tokio::test]
async fn lists_have_limits_and_say_how_much_there_is() {
    let town = Town::new().await;
    let (inventory, _database) = start(&town).await;
    town.bus.publish(&basket(1, 330, &[(4, 6), (8, 6), (12, 6)])).await.unwrap();
    settled(&[&inventory]).await;
    assert_eq!(
        inventory.get("/stores/330/depleted?limit=2").await,
        json!({ "store": 330, "total": 3, "products": [4, 8] })
    );
    inventory.stop().await;
}
