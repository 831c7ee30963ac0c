//! The scheduler's shell around [`crate::decide`]: it knows cron lines, time zones and dates, and hands plain numbers in.
//!
//! What is in here so far reads no clock and no socket: `now` is an argument, and so is the time zone database.

pub mod cron;
pub mod duration;
pub mod run;
pub mod tick;
pub mod turns;
pub mod windows;

#[cfg(test)]
mod tests;
