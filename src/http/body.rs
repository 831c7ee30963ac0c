//! JSON bodies, read strictly: what is wrong is named with its path, line and column, and nothing is guessed.
//!
//! A field that the type does not have is refused, like a field that stands there twice: whoever sends it means
//! something by it, and a server that passes over it would do less than was asked and say that all is well.

use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A body must be there within this time. It holds one of the connections that there are, so a sender that
/// announces more than it sends must not keep it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A request body that is the JSON of `T`.
///
/// serde_json stops at a depth of 128 (faults.md H2), the body limit of the router bounds the size, and
/// the content type is not looked at: busybox wget in a golden image cannot set it.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse(&read(request, state).await?).map(JsonBody)
    }
}

/// The bytes of a body, as many as the router allows.
///
/// # Errors
/// 413 for more, as soon as there are more; 408 for a body that does not come; 400 for one that was cut.
pub async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let Ok(taken) = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await else {
        let error = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, error));
    };
    taken.map_err(|error| match error.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than this request may be")
        }
        status => Problem::new(status, "the body was cut off"),
    })
}

/// Reads JSON.
///
/// # Errors
/// 400, and what is wrong where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not right: {what}"));
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let mut unknown: Option<String> = None;
    let parsed = serde_ignored::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track), |path| {
        unknown.get_or_insert_with(|| shortened(&path.to_string()));
    });
    let value = parsed.map_err(|error: serde_json::Error| {
        let path = track.path().to_string();
        // "." is the whole body.
        bad(if path == "." { error.to_string() } else { format!("{}: {error}", shortened(&path)) })
    })?;
    json.end().map_err(|error| bad(error.to_string()))?;
    match unknown {
        None => Ok(value),
        Some(path) => Err(bad(format!("{path}: there is no such field"))),
    }
}

/// A path can hold a key of the sender's, of any length and kind.
fn shortened(path: &str) -> String {
    path.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::agent::{CheckIn, Report};

    fn error<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        let problem = parse::<T>(text.as_bytes()).expect_err(text);
        assert_eq!(problem.status, StatusCode::BAD_REQUEST);
        problem.error
    }

    const CHECK_IN: &str = r#"{"protocol":2,"host":"h","generation":1,"token":"t","session":"s","uefi":false,
        "inventory":{"macs":[],"disks":[{"name":"vda","size_bytes":1,"sector_bytes":512,"transport":"virtio",
        "removable":false,"read_only":false}]}}"#;
    const REPORT: &str = r#"{"protocol":2,"host":"h","generation":1,"session":"s",
        "event":{"target":{"disk":{"name":"vda","size_bytes":1,"sector_bytes":512,"transport":"virtio",
        "removable":false,"read_only":false}}}}"#;

    /// faults.md H2: the message leads to the place, however deep it lies.
    #[test]
    fn what_is_wrong_is_named_with_its_path_line_and_column() {
        parse::<CheckIn>(CHECK_IN.as_bytes()).unwrap();
        parse::<Report>(REPORT.as_bytes()).unwrap();
        let check_in = |from: &str, to: &str| error::<CheckIn>(&CHECK_IN.replace(from, to));
        let report = |from: &str, to: &str| error::<Report>(&REPORT.replace(from, to));
        let said = check_in(r#""size_bytes":1"#, r#""size_bytes":"1""#);
        assert!(said.contains("inventory.disks[0].size_bytes: invalid type: string"), "{said}");
        assert!(said.contains("line 2 column "), "{said}");
        let said = report(r#""size_bytes":1"#, r#""size_bytes":-1"#);
        assert!(said.contains("event.target.disk.size_bytes: invalid value: integer `-1`"), "{said}");
        assert!(report("target", "burn").contains("event: unknown variant `burn`, expected one of `step`"));
        assert!(check_in(r#""token":"t","#, "").contains("missing field `token`"));
        assert!(error::<CheckIn>("[]").contains("invalid length 0"));
        assert!(error::<CheckIn>("").contains("EOF"));
        assert!(check_in(r#""generation":1"#, r#""generation":NaN"#).contains("generation: expected value at line 1"));
        assert!(check_in(r#""generation":1"#, r#""generation":1e999"#).contains("number out of range"));
        assert!(error::<CheckIn>(&format!("{CHECK_IN} {{}}")).contains("trailing characters"));
    }

    #[test]
    fn a_field_that_nobody_knows_or_that_stands_there_twice_is_refused_at_every_depth() {
        let check_in = |from: &str, to: &str| error::<CheckIn>(&CHECK_IN.replace(from, to));
        let report = |from: &str, to: &str| error::<Report>(&REPORT.replace(from, to));
        let said = check_in(r#""host":"h""#, r#""host":"h","colour":"red""#);
        assert!(said.contains("colour: there is no such field"), "{said}");
        let said = check_in(r#""name":"vda""#, r#""name":"vda","colour":{"a":[1,2]}"#);
        assert!(said.contains("inventory.disks.0.colour: there is no such field"), "{said}");
        let said = report(r#""name":"vda""#, r#""name":"vda","colour":1"#);
        assert!(said.contains("colour: there is no such field"), "{said}");
        let said = report(r#"{"disk":"#, r#"{"speed":1,"disk":"#);
        assert!(said.contains("speed: there is no such field"), "{said}");
        assert!(check_in(r#""host":"h""#, r#""host":"h","host":"i""#).contains("duplicate field `host`"));
        assert!(check_in(r#""name":"vda""#, r#""name":"vda","name":"vdb""#).contains("duplicate field `name`"));
        assert!(report(r#""name":"vda""#, r#""name":"vda","name":"vdb""#).contains("duplicate field `name`"));
        let said = check_in(r#""host":"h""#, &format!(r#""host":"h","{}\n\u001b[2J":1"#, "x".repeat(5000)));
        assert!(said.len() < 250 && !said.chars().any(char::is_control), "{said}");
    }

    /// faults.md H2: a known field, an unknown one, and the whole body.
    #[test]
    fn depth_is_bounded_wherever_it_stands() {
        let deep = "[".repeat(10_000);
        assert!(error::<CheckIn>(&deep).contains("invalid type"));
        assert!(error::<CheckIn>(&CHECK_IN.replace(r#""t""#, &deep)).contains("token: invalid type: sequence"));
        error::<CheckIn>(&CHECK_IN.replace(r#""host":"h""#, &format!(r#""host":"h","colour":{deep}"#)));
        assert!(error::<serde_json::Value>(&deep).contains("recursion limit exceeded"));
    }
}
