//! Answers that are not good news, as JSON with one sentence for the person who must act.

use crate::registry::RegistryError;
use crate::registry::drift::DriftRefusal;
use crate::registry::requests::Proposal;
use crate::wire::operator::Problem as Body;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A status and a sentence.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub error: String,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), retry_after: None }
    }

    /// For the second person: what was proposed cannot be confirmed as things are now.
    #[must_use]
    pub fn changed(self, proposal: &Proposal) -> Problem {
        let (number, by, why) = (proposal.number, &proposal.by, self.error);
        let error = format!(
            "{why}; the fleet is not as it was when {by} proposed this, and nothing was done. Proposal {number} stays until \
             its day is over: change the fleet back and confirm it, or ask anew and `regild proposal withdraw {number}`"
        );
        Problem { error, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut answer = (self.status, Json(Body { error: self.error })).into_response();
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Problem {
        let status = match &error {
            RegistryError::UnknownHost(_) => StatusCode::NOT_FOUND,
            RegistryError::Refused(_)
            | RegistryError::Protected(_)
            | RegistryError::NeedsSecond { .. }
            | RegistryError::NotTripped
            | RegistryError::ImageBlocked { .. }
            | RegistryError::ImageRefused(_)
            | RegistryError::InRollout { .. }
            | RegistryError::RolloutCommand(_) => StatusCode::CONFLICT,
            RegistryError::NoProposal(_) | RegistryError::NoRollout(_) | RegistryError::UnknownImage(_) => {
                StatusCode::NOT_FOUND
            }
            RegistryError::Drift(refusal) => of_drift(refusal),
            RegistryError::SamePerson(_) => StatusCode::FORBIDDEN,
            RegistryError::Denied(_) => StatusCode::UNPROCESSABLE_ENTITY,
            RegistryError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            RegistryError::Store(_) | RegistryError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        let retry_after = match &error {
            RegistryError::Drift(DriftRefusal::TooSoon { seconds }) => Some(*seconds),
            _ => None,
        };
        Problem { retry_after, ..Problem::new(status, error.to_string()) }
    }
}

fn of_drift(refusal: &DriftRefusal) -> StatusCode {
    match refusal {
        DriftRefusal::WrongKey => StatusCode::UNAUTHORIZED,
        DriftRefusal::TooSoon { .. } => StatusCode::TOO_MANY_REQUESTS,
        DriftRefusal::Meaning(_) => StatusCode::UNPROCESSABLE_ENTITY,
        DriftRefusal::NoException(_) => StatusCode::NOT_FOUND,
        DriftRefusal::NotBuilt
        | DriftRefusal::OtherGeneration { .. }
        | DriftRefusal::OrderOpen { .. }
        | DriftRefusal::BeingWritten
        | DriftRefusal::OtherKey { .. }
        | DriftRefusal::Replayed { .. }
        | DriftRefusal::NotKept { .. }
        | DriftRefusal::TooManyExceptions(_) => StatusCode::CONFLICT,
    }
}
