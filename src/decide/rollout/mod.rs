//! Rollouts: the change of many hosts by waves.

pub mod plan;
