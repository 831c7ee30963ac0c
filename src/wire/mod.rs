//! What server, agent and operator say to each other: versioned serde types, and nothing else.

pub mod agent;
pub mod baseline;
pub mod drift;
pub mod fleet;
pub mod image_facts;
pub mod ledger;
pub mod manifest;
pub mod operator;
pub mod operator_baseline;
pub mod operator_diff;
pub mod operator_drift;
pub mod operator_images;
pub mod reference;
pub mod standby;
pub mod upload;
pub mod verify;
