//! Arguments of a request.

use aqueduct::Problem;
use axum::{
    extract::{self, FromRequestParts},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};

/// The variables of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The variables of the query.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(variables)) => Ok(Self(variables)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match extract::Query::from_request_parts(parts, state).await {
            Ok(extract::Query(variables)) => Ok(Self(variables)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

/// How many entries of a list are answered: 1 to 1,000, and 100 unless asked otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Limit(u32);

impl Limit {
    const MOST: u32 = 1_000;

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(limit: u32) -> Result<Self, String> {
        if (1..=Self::MOST).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err(format!("a limit is 1 to {}, not {limit}", Self::MOST))
        }
    }
}
