//! Rollouts: the change of many hosts by waves.
//!
//! A rollout is planned once and carried out step by step: [`make`] turns a request and facts into an immutable
//! [`plan::Plan`], [`step`] turns a plan, its progress and facts into the next progress and a few actions. The plan
//! leaves no choice to the steps. When a rollout is done, planning again on the same facts gives a plan without waves.

pub mod gate;
pub mod make;
pub mod plan;
pub mod progress;
pub mod step;
pub mod text;
pub mod waiting;

#[cfg(test)]
mod tests;
