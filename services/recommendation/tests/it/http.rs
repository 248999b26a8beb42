//! The HTTP API.

use shop_testing::{Town, problem};

use crate::start;

/// P12. Red when an extractor of axum is used directly, or a basket may name any number of products.
#[tokio::test]
async fn bad_requests_are_problems() {
    let town = Town::new().await;
    let (service, _database) = start(&town).await;
    let many = format!("/baskets?store=330&skus={}", ["7"; 51].join(","));
    for (path, status, title, detail) in [
        ("/products/x?store=330", 400, "Bad Request", "Invalid URL: Cannot parse `x` to a `u32`"),
        ("/products/10", 400, "Bad Request", "Failed to deserialize query string: missing field `store`"),
        (
            "/products/10?store=x",
            400,
            "Bad Request",
            "Failed to deserialize query string: store: invalid digit found in string",
        ),
        (
            "/products/10?store=330&limit=5000",
            400,
            "Bad Request",
            "Failed to deserialize query string: limit: a limit is 1 to 1000, not 5000",
        ),
        (
            "/baskets?store=330&skus=1,two",
            400,
            "Bad Request",
            "Failed to deserialize query string: skus: \"two\" is not the number of a product",
        ),
        (
            "/baskets?store=330&skus=",
            400,
            "Bad Request",
            "Failed to deserialize query string: skus: \"\" is not the number of a product",
        ),
        (
            &many,
            400,
            "Bad Request",
            "Failed to deserialize query string: skus: a basket has at most 50 products here",
        ),
        ("/households/7?store=330", 404, "Not Found", "household 7 has bought nothing yet"),
        ("/shelves", 404, "Not Found", "there is nothing at /shelves"),
    ] {
        assert_eq!(service.ask(path).await, problem(status, title, detail, path), "{path}");
    }
    service.stop().await;
}
