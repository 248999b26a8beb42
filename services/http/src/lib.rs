//! What the HTTP APIs of the sample shop share: arguments of a request, checked, and refused as problem details.
//!
//! - [`Path`], [`Query`]: axum's extractors, refusing with an [`aqueduct::Problem`]
//! - [`Limit`]: how long a list may be

mod arguments;

pub use arguments::{Limit, Path, Query};

#[cfg(test)]
mod tests {
    use aqueduct::{Problem, with_problems};
    use axum::{Json, Router, body::Body, http::Request, routing::get};
    use serde::Deserialize;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;

    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        limit: Limit,
    }

    async fn shelf(Path(id): Path<u32>, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
        match id {
            0 => Err(Problem::not_found("there is no shelf 0")),
            _ => Ok(Json(json!([id, page.limit.get()]))),
        }
    }

    async fn ask(method: &str, path: &str) -> (u16, String, Value) {
        let routes =
            Router::new().nest("/shop", with_problems(Router::new().route("/shelves/{id}", get(shelf))));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, content_type, serde_json::from_slice(&body).unwrap())
    }

    /// P12. Red when an extractor of axum is used directly.
    #[tokio::test]
    async fn bad_arguments_are_problems() {
        for (method, path, status, title, detail) in [
            ("GET", "/shop/shelves/0", 404, "Not Found", "there is no shelf 0"),
            ("GET", "/shop/shelves/x", 400, "Bad Request", "Invalid URL: Cannot parse `x` to a `u32`"),
            (
                "GET",
                "/shop/shelves/2?limit=1001",
                400,
                "Bad Request",
                "Failed to deserialize query string: limit: a limit is 1 to 1000, not 1001",
            ),
            (
                "GET",
                "/shop/shelves/2?limit=-1",
                400,
                "Bad Request",
                "Failed to deserialize query string: limit: invalid digit found in string",
            ),
            ("GET", "/shop/nowhere", 404, "Not Found", "there is nothing at /shop/nowhere"),
            ("POST", "/shop/shelves/2", 405, "Method Not Allowed", "POST is not possible here"),
        ] {
            let body = json!({
                "type": "about:blank", "title": title, "status": status, "detail": detail, "instance": path,
            });
            assert_eq!(
                ask(method, path).await,
                (status, "application/problem+json".to_owned(), body),
                "{path}"
            );
        }
        assert_eq!(ask("GET", "/shop/shelves/2").await.2, json!([2, 100]));
        assert_eq!(ask("GET", "/shop/shelves/2?limit=1000").await.2, json!([2, 1000]));
    }
}
