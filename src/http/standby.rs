//! The agent of an installed system asks whether it is to come back over the network (`POST /agent/v1/standby`).
//!
//! Who asks is whom the address is leased to, nobody else is spoken of, and what it hears is what its boot script
//! would tell it anyway. A question that changes nothing reaches neither the writer nor the store: each host of the
//! fleet asks twice a minute.

use super::Shared;
use super::body::JsonBody;
use super::listen::Peer;
use super::problem::Problem;
use super::said;
use crate::clock;
use crate::decide::host::{Event, Refusal, State as HostState};
use crate::decide::mac::Mac;
use crate::decide::standby::{self, Facts, Purpose, Verdict};
use crate::power::Driver;
use crate::registry::{HostView, RegistryError, with_looks};
use crate::wire::standby::{Reboot, Standby, StandbyAnswer};
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use std::sync::Arc;

/// `POST /agent/v1/standby`: the word of the installed system, and what it is to do.
///
/// # Errors
/// 403 (an address that is leased to nobody), 404 (to a machine that is no host), 503 when the store cannot take it.
pub async fn ask(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    JsonBody(asked): JsonBody<Standby>,
) -> Result<Json<StandbyAnswer>, Problem> {
    let address = peer.remote.ip();
    let mac = shared.lease_holder(peer);
    let mac = mac.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, format!("{address} is leased to nobody")))?;
    let now = clock::now();
    let known = shared.registry.read(|all| {
        let view = all.by_mac(mac)?;
        all.note_agent(&view, now);
        Some(view)
    });
    let view = known.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("{mac} is not known")))?;
    confirm(&shared, &view, &asked).await?;
    let verdict = judge(&shared, &view, &asked, now);
    let purpose = match verdict {
        Verdict::Stay(stay) => {
            return Ok(Json(StandbyAnswer { reboot: None, reason: stay.sentence().to_string() }));
        }
        Verdict::Reboot { purpose, is_first: false } => purpose,
        Verdict::Reboot { purpose, is_first: true } => {
            write_down(&shared, &view, &asked).await?;
            // Only the first time: what a machine repeats does not fill the log.
            tracing::info!(host = view.host.id, ?purpose, "the installed agent was told to reboot");
            purpose
        }
    };
    let script = script_path(mac, asked.uefi);
    let (generation, reason) = match purpose {
        Purpose::Order { generation } => (generation, format!("order {generation} is open for this machine")),
        // An agent of an older release wants a generation; its script says what it is for.
        Purpose::Verify { .. } => (view.host.generation, "its disk is to be verified from outside".to_string()),
    };
    Ok(Json(StandbyAnswer { reboot: Some(Reboot { generation, script }), reason }))
}

/// What the phone-home of an image without the agent does (`agent::installed`), where it is news.
async fn confirm(shared: &Shared, view: &HostView, asked: &Standby) -> Result<(), Problem> {
    let is_news = matches!(view.host.state, HostState::Rebooting | HostState::Ready { confirmed: false });
    if !is_news {
        return Ok(());
    }
    let event = Event::Installed { image: said::text(&asked.image) };
    match shared.registry.host_event(&view.host.id, event).await {
        Ok(_) => Ok(()),
        // It stays unconfirmed. That another system runs is no reason not to be rebuilt.
        Err(RegistryError::Refused(refusal @ Refusal::OtherImage { .. })) => {
            tracing::debug!(host = view.host.id, %refusal, "not confirmed");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn judge(shared: &Shared, view: &HostView, asked: &Standby, now: u64) -> Verdict {
    let (policy, is_its_driver, is_denied) = shared.registry.read(|all| {
        let is_full = || all.look_waits(&view.host, now).is_some();
        let policy = with_looks(shared.registry.boot_policy(), is_full, &view.host);
        (policy, all.driver(view) == Driver::Agent, all.allowed(&view.host).is_err())
    });
    let host = &view.host;
    standby::judge(
        &Facts { host, policy, is_its_driver, is_denied, uefi: asked.uefi, up_seconds: asked.up_seconds },
        now,
    )
}

/// Before it is said: a server that dies now does not reboot the machine again and again.
async fn write_down(shared: &Shared, view: &HostView, asked: &Standby) -> Result<(), Problem> {
    let how = format!("{}: boot to network", Driver::Agent);
    shared.registry.host_event(&view.host.id, Event::Powered { how }).await?;
    let up = crate::decide::span::span(asked.up_seconds);
    let said = format!("told the installed agent to reboot; it runs {}, up {up}", said::text(&asked.image));
    if let Err(error) = shared.registry.host_event(&view.host.id, Event::PowerReported { said }).await {
        tracing::warn!(host = view.host.id, %error, "what came of the power was not noted");
    }
    Ok(())
}

/// As DHCP gives it to iPXE.
fn script_path(mac: Mac, uefi: bool) -> String {
    format!("/boot/{}/{}", mac.to_string().replace(':', "-"), if uefi { "uefi" } else { "bios" })
}
