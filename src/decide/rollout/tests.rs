//! The laws of a rollout: of the plan, of its steps, and of both against random fleets.

mod fleet;
mod lives;
mod making;
mod stories;
