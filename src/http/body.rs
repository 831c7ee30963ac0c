//! JSON bodies, read strictly: what is wrong is named with line and column, and nothing is guessed.

use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

/// A request body that is the JSON of `T`.
///
/// serde_json stops at a depth of 128 (faults.md H2), the body limit of the router bounds the size, and
/// the content type is not looked at: busybox wget in a golden image cannot set it.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error: BytesRejection| {
            let status = error.into_response().status();
            Problem::new(status, format!("the body was not taken: {status}"))
        })?;
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(JsonBody)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not right: {error}")))
    }
}
