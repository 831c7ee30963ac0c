//! The words between the agent of an installed system and the server: `POST /agent/v1/standby`.
//!
//! They have no version to agree on, unlike the deploy environment's ([`super::agent`]): the agent lies in golden
//! images and outlives many servers, and one that is refused could never be told to come and be rebuilt. So a field
//! may come only as an optional one, none may go, and the agent passes over what it does not know.

use serde::{Deserialize, Serialize};

/// What an installed system says, again and again. Who it is, its address says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standby {
    /// `NAME:VERSION` of the golden image that it is.
    pub image: String,
    /// How long it has been up.
    pub up_seconds: u64,
    /// True where its firmware is UEFI.
    pub uefi: bool,
}

/// What it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandbyAnswer {
    /// An order is open and waits for this machine.
    pub reboot: Option<Reboot>,
    /// Why it is left alone, or what it is rebooted for; for its journal.
    pub reason: String,
}

/// Come back over the network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reboot {
    pub generation: u64,
    /// Path of the boot script on the server, for a machine that goes there by kexec. Asking for it begins an attempt.
    pub script: String,
}
