//! Redfish (DMTF DSP0266): nothing is assumed of a controller but its service root. Every path, every reset type and
//! every boot target is taken from what it offers.

mod client;
mod resource;
mod tls;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::attempt::{Limits, Repeat, Work};
use super::error::printable;
use super::seal::Secret;
use super::settings::Redfish;
use super::{Action, Override, PowerError, PowerState};
use crate::clock;
use client::{Client, Method};
use resource::{ActionInfo, Collection, ResetType, Root, System};

/// The one path that the specification fixes (section 6.2), with the slash that some redirect to.
const ROOT: &str = "/redfish/v1/";
const NETWORK: &str = "Pxe";
/// How long a controller may take to show the override that it took, in looks.
const LOOKS_MAX: u32 = 4;

pub(super) struct Controller<'a> {
    client: Client,
    system: Option<&'a str>,
}

impl<'a> Controller<'a> {
    pub fn new(settings: &'a Redfish, password: &Secret, limits: &Limits) -> Result<Controller<'a>, PowerError> {
        Ok(Controller { client: Client::new(settings, password, limits)?, system: settings.system.as_deref() })
    }

    /// The path of the system: the one that the settings name, or the only one that there is.
    async fn find(&self) -> Result<String, PowerError> {
        let root: Root = self.client.get(ROOT).await?.resource()?;
        let collection: Collection = self.client.get(&root.systems.path).await?.resource()?;
        let paths: Vec<&str> = collection.members.iter().map(|link| link.path.as_str()).collect();
        resource::choose_system(self.system, &paths).map(str::to_string).ok_or_else(|| PowerError::NoSuchSystem {
            place: self.client.place.clone(),
            asked: printable(self.system.unwrap_or("that could be told from the others")),
            seen: printable(&if paths.is_empty() { "none".to_string() } else { paths.join(", ") }),
        })
    }

    async fn system(&self, path: &str) -> Result<System, PowerError> {
        self.client.get(path).await?.resource()
    }

    /// What can be reset to: beside the action, or in the resource that it points to.
    async fn reset_types(&self, system: &System) -> Result<Vec<String>, PowerError> {
        let Some(reset) = &system.actions.reset else { return Ok(Vec::new()) };
        match (&reset.allowable, &reset.info) {
            (Some(allowable), _) => Ok(allowable.clone()),
            (None, Some(path)) => {
                let info: ActionInfo = self.client.get(path).await?.resource()?;
                Ok(info.reset_types())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Changes a resource that nobody else changed meanwhile.
    async fn patch(&self, path: &str, body: &Value, try_number: u32) -> Result<(), PowerError> {
        let etag = self.client.get(path).await?.etag;
        let if_match = etag.map(|etag| resource::if_match(&etag, try_number).to_string());
        self.client.send(Method::Patch, path, if_match.as_deref(), Some(body)).await.map(|_| ())
    }
}

pub(super) async fn act(bmc: &Controller<'_>, action: Action, work: &mut Work<'_>) -> Result<(), PowerError> {
    let path = work.step("find the system", Repeat::Safe, || bmc.find()).await?;
    let system = work.step("ask for its state", Repeat::Safe, || bmc.system(&path)).await?;
    let state = system.power_state();
    work.report.state = state;
    match (action, state) {
        (Action::Status, _) | (Action::PowerOff, PowerState::Off) => return Ok(()),
        _ => {}
    }
    // Before anything is changed: what cannot be reset needs no override.
    let types = work.step("ask how it can be reset", Repeat::Safe, || bmc.reset_types(&system)).await?;
    let plan = resource::reset_plan(action, state, &types).ok_or_else(|| PowerError::NotOffered {
        place: bmc.client.place.clone(),
        offered: printable(&types.join(", ")),
    })?;
    if action == Action::BootToNetwork {
        set_override(bmc, &path, &system, work).await?;
    }
    for reset_type in plan {
        reset(bmc, &path, &system, *reset_type, work).await?;
    }
    Ok(())
}

async fn reset(
    bmc: &Controller<'_>,
    path: &str,
    system: &System,
    reset_type: ResetType,
    work: &mut Work<'_>,
) -> Result<(), PowerError> {
    let target = system.actions.reset.as_ref().map(|reset| reset.target.as_str());
    let Some(target) = target else {
        return Err(PowerError::NotOffered { place: bmc.client.place.clone(), offered: "nothing".into() });
    };
    let what = format!("reset it: {}", reset_type.name());
    let body = json!({"ResetType": reset_type.name()});
    let asked = work.step(&what, Repeat::OnlyIfNotCarriedOut, || async {
        bmc.client.send(Method::Post, target, None, Some(&body)).await.map(|_| ())
    });
    match asked.await {
        // Whether it switched on or off shows in the state; whether it restarted does not.
        Err(PowerError::NoAnswer { .. } | PowerError::Trouble { .. }) if reset_type.shows_in_the_state() => {}
        asked => asked?,
    }
    work.wait_for(reset_type.leads_to(), || async { Ok(bmc.system(path).await?.power_state()) }).await
}

/// Sets one boot from the network and reads it back. A refusal ends the action before the machine is reset: it would
/// boot its disk, and a service would have been down for nothing.
async fn set_override(
    bmc: &Controller<'_>,
    path: &str,
    system: &System,
    work: &mut Work<'_>,
) -> Result<(), PowerError> {
    let refused = |said: String| PowerError::OverrideRefused { place: bmc.client.place.clone(), said };
    let offered = &system.boot.targets;
    if offered.as_ref().is_some_and(|targets| !targets.iter().any(|target| target == NETWORK)) {
        let targets = offered.as_deref().unwrap_or_default().join(", ");
        return Err(refused(format!("its boot targets are {}", printable(&targets))));
    }
    let mode = system.boot.mode.as_deref();
    let settings = system.settings_path();
    // Tried in this order. HPE refuses to have the mode written, even unchanged; others refuse to go without it. AMI
    // (MegaRAC) wants boot settings in the resource of the next boot (OperationSupportedInFutureStateURI).
    let ways = [(Some(path), None), (mode.and(Some(path)), mode), (settings, None)];
    let mut first_refusal = None;
    for (at, mode) in ways.into_iter().filter_map(|(at, mode)| Some((at?, mode))) {
        match patch_override(bmc, at, mode, work).await {
            Ok(()) => {
                let (mut shown, mode_shown) = read_back(bmc, path, work).await?;
                // Supermicro falls back to BIOS mode unless it is told the mode that it is in.
                if mode.is_none() && system.boot.mode.is_some() && mode_shown != system.boot.mode {
                    patch_override(bmc, at, system.boot.mode.as_deref(), work).await?;
                    shown = read_back(bmc, path, work).await?.0;
                }
                work.report.boot_override = Some(shown);
                return Ok(());
            }
            Err(PowerError::Refused { said, .. }) => first_refusal = first_refusal.or(Some(said)),
            Err(error) => return Err(error),
        }
    }
    Err(refused(first_refusal.unwrap_or_default()))
}

async fn patch_override(
    bmc: &Controller<'_>,
    path: &str,
    mode: Option<&str>,
    work: &mut Work<'_>,
) -> Result<(), PowerError> {
    let mut boot = json!({"BootSourceOverrideTarget": NETWORK, "BootSourceOverrideEnabled": "Once"});
    if let Some(mode) = mode {
        boot["BootSourceOverrideMode"] = mode.into();
    }
    let body = json!({"Boot": boot});
    let tries = AtomicU32::new(0);
    let what = if mode.is_some() { "set one network boot, with the mode" } else { "set one network boot" };
    work.step(what, Repeat::Safe, || bmc.patch(path, &body, 1 + tries.fetch_add(1, Ordering::Relaxed))).await
}

/// What the controller shows after it took the override, and the boot mode.
async fn read_back(
    bmc: &Controller<'_>,
    path: &str,
    work: &mut Work<'_>,
) -> Result<(Override, Option<String>), PowerError> {
    const WHAT: &str = "read the boot override back";
    let began = clock::instant();
    let mut looks = 0;
    loop {
        looks += 1;
        let boot = work.step(WHAT, Repeat::Safe, || bmc.system(path)).await?.boot;
        let shown = boot.shown_override(NETWORK);
        let settled = matches!(shown, Override::Checked | Override::Continuous);
        if settled || looks >= LOOKS_MAX || began.elapsed() > work.limits.request {
            return Ok((shown, boot.mode));
        }
        tokio::time::sleep(work.limits.poll).await;
    }
}
