//! What a machine fetches to get an image: the rules, without a disk and without a network.
//!
//! The agent fetches by them, and the server counts by them what it would fetch (`regild image plan`). Since both call the
//! same functions, what was announced and what is done cannot part.
//!
//! | module | what |
//! | --- | --- |
//! | [`segments`] | which ranges of which packs to ask for |
//! | [`boot`] | the boot area fitted to a disk, and the body between its parts |
//! | [`moved`] | what is copied from elsewhere on the disk instead of fetched |
//! | [`forecast`] | all of it together, in the order of a deploy |

pub mod boot;
pub mod forecast;
pub mod moved;
pub mod segments;
