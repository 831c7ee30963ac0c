//! Requests that wait for a second person, and requests that are told twice.

use super::*;
use crate::registry::requests::{PROPOSAL_SECONDS, Proposal, ProposalKind};

fn proposal(request: String) -> Proposal {
    Proposal {
        number: 0,
        by: "ann".into(),
        by_uid: 1000,
        at: 0,
        kind: ProposalKind::Reimage,
        request,
        summary: "s".into(),
        hosts: 1,
        digest: "d".into(),
    }
}

/// Found by reading: a request that names 1,500 hosts is larger than a record, and one that does not fit ends all writing.
#[tokio::test]
async fn a_proposal_that_is_too_large_for_the_store_is_refused_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let too_large = registry.propose(proposal("x".repeat(crate::db::VALUE_BYTES_MAX))).await;
    assert!(matches!(too_large, Err(RegistryError::TooLarge(_))), "{too_large:?}");
    assert_eq!(registry.propose(proposal(String::new())).await.unwrap(), 1);
    assert_eq!(registry.proposals().await.unwrap().len(), 1);
}

/// Two names of one user are one person; what the first one tries uses nothing up.
#[tokio::test]
async fn a_proposal_is_taken_by_another_user_within_a_day_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let number = registry.propose(proposal("r".into())).await.unwrap();
    assert_eq!(registry.propose(proposal("r".into())).await.unwrap(), number, "the same request is the same proposal");
    let other = Proposal { by_uid: 1001, ..proposal("r".into()) };
    assert_eq!(registry.propose(other).await.unwrap(), number + 1);
    assert!(matches!(registry.take_proposal(number, Some(1000)).await, Err(RegistryError::SamePerson(_))));
    let taken = registry.take_proposal(number, Some(1001)).await.unwrap();
    assert_eq!(taken.number, number);
    assert!(matches!(registry.take_proposal(number, Some(1001)).await, Err(RegistryError::NoProposal(_))));
    assert!(taken.confirmable_by(1001, taken.at + PROPOSAL_SECONDS - 1).is_ok());
    assert!(taken.confirmable_by(1001, taken.at + PROPOSAL_SECONDS).is_err(), "a day later");
}
