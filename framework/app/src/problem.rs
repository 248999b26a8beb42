//! Errors by RFC 9457.

use axum::{
    Json, Router,
    extract::{OriginalUri, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// An error that a client can read. Its type is `about:blank`: the status says what it is, the detail why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// The request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: detail.into() }
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail: detail.into() }
    }

    /// The request is understood and not allowed.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, detail: detail.into() }
    }

    /// It cannot answer now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.into() }
    }

    /// It failed here. The cause goes to the service's log and not to the client, whom it does not concern.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = cause, "a request failed");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            detail: "the service could not read its database; its log says why".into(),
        }
    }

    fn render(&self, instance: &str) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: &'a str,
            instance: &'a str,
        }
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
        };
        let mut response = (self.status, Json(body)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl IntoResponse for Problem {
    /// A response that waits for [`with_problems`] to add the instance, which handlers do not know.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes every error of these routes a problem: those of handlers and extractors, unknown paths, wrong methods.
pub fn with_problems(routes: Router) -> Router {
    routes.fallback(unknown).method_not_allowed_fallback(wrong_method).layer(from_fn(add_instance))
}

async fn unknown(OriginalUri(uri): OriginalUri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method) -> Problem {
    Problem { status: StatusCode::METHOD_NOT_ALLOWED, detail: format!("{method} is not possible here") }
}

async fn add_instance(OriginalUri(uri): OriginalUri, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    let mut rendered = problem.render(uri.path_and_query().map_or(uri.path(), |instance| instance.as_str()));
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}
