//! How a host's verifications lie in its record.

use crate::decide::host::{LastVerify, Verification, VerifyClaim, VerifyNumber, VerifyResult, VerifyWish};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredVerification {
    count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wish: Option<StoredWish>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<StoredLast>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredWish {
    number: u64,
    by: String,
    reason: String,
    asked_at: u64,
    power: bool,
    powered_at: Option<u64>,
    #[serde(default)]
    begun_at: Option<u64>,
    attempts: u32,
    /// Not the names that an order's have: what is looked for in one is never found in the other.
    verify_token_digest: Option<String>,
    verify_session_digest: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredLast {
    number: u64,
    at: u64,
    verify_session_digest: Option<String>,
    result: StoredResult,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredResult {
    Compared { findings: u64, gaps: u64 },
    Failed { reason: String },
}

impl From<&Verification> for StoredVerification {
    fn from(verify: &Verification) -> StoredVerification {
        let wish = verify.wish.as_deref().map(|wish| StoredWish {
            number: wish.number.0,
            by: wish.by.clone(),
            reason: wish.reason.clone(),
            asked_at: wish.asked_at,
            power: wish.power,
            powered_at: wish.powered_at,
            begun_at: wish.begun_at,
            attempts: wish.attempts,
            verify_token_digest: wish.claim.as_ref().map(|claim| claim.token_digest.clone()),
            verify_session_digest: wish.claim.as_ref().and_then(|claim| claim.session_digest.clone()),
        });
        let last = verify.last.as_deref().map(|last| StoredLast {
            number: last.number.0,
            at: last.at,
            verify_session_digest: last.session_digest.clone(),
            result: match last.result.clone() {
                VerifyResult::Compared { findings, gaps } => StoredResult::Compared { findings, gaps },
                VerifyResult::Failed { reason } => StoredResult::Failed { reason },
            },
        });
        StoredVerification { count: verify.count, wish, last }
    }
}

impl From<StoredVerification> for Verification {
    fn from(stored: StoredVerification) -> Verification {
        let wish = stored.wish.map(|wish| {
            let session_digest = wish.verify_session_digest;
            Box::new(VerifyWish {
                number: VerifyNumber(wish.number),
                by: wish.by,
                reason: wish.reason,
                asked_at: wish.asked_at,
                power: wish.power,
                powered_at: wish.powered_at,
                begun_at: wish.begun_at,
                attempts: wish.attempts,
                claim: wish.verify_token_digest.map(|token_digest| VerifyClaim { token_digest, session_digest }),
            })
        });
        let last = stored.last.map(|last| {
            Box::new(LastVerify {
                number: VerifyNumber(last.number),
                at: last.at,
                session_digest: last.verify_session_digest,
                result: match last.result {
                    StoredResult::Compared { findings, gaps } => VerifyResult::Compared { findings, gaps },
                    StoredResult::Failed { reason } => VerifyResult::Failed { reason },
                },
            })
        });
        Verification { count: stored.count, wish, last }
    }
}

#[cfg(test)]
pub(super) mod tests;
