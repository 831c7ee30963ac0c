//! What comes back from the store is what went in.

use super::*;

/// With something in every field.
pub fn full() -> Verification {
    let claim = VerifyClaim { token_digest: "t".into(), session_digest: Some("s".into()) };
    Verification {
        count: 3,
        wish: Some(Box::new(VerifyWish {
            number: VerifyNumber(3),
            by: "b".into(),
            reason: "r".into(),
            asked_at: 5,
            power: true,
            powered_at: Some(6),
            begun_at: Some(7),
            attempts: 2,
            claim: Some(claim),
        })),
        last: Some(Box::new(LastVerify {
            number: VerifyNumber(2),
            at: 4,
            session_digest: Some("s".into()),
            result: VerifyResult::Compared { findings: 7, gaps: 1 },
        })),
    }
}

#[test]
fn a_verification_that_failed_comes_back_as_it_went_in() {
    let failed = VerifyResult::Failed { reason: "no disk".into() };
    let last = LastVerify { number: VerifyNumber(2), at: 4, session_digest: None, result: failed };
    let verify = Verification { count: 2, wish: None, last: Some(Box::new(last)) };
    let json = serde_json::to_string(&StoredVerification::from(&verify)).unwrap();
    let stored: StoredVerification = serde_json::from_str(&json).unwrap();
    assert_eq!(Verification::from(stored), verify);
}
