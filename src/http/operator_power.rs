//! How a host's power is reached, for operators.

use super::Shared;
use super::body::JsonBody;
use super::peer::Operator;
use super::problem::Problem;
use crate::causes;
use crate::power::{self, Settings, Written};
use crate::registry::{HostView, RegistryError};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::path::PathBuf;
use std::sync::Arc;

/// `PUT /v1/hosts/{id}/power`: the table `[host.power]`, the password in plain; it is sealed before it is stored. The
/// answer is the table without it.
///
/// # Errors
/// 400 names the key that is wrong; 404.
pub async fn set(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    operator: Operator,
    JsonBody(written): JsonBody<Written>,
) -> Result<Json<Written>, Problem> {
    let view = shared.registry.find(&id).ok_or(RegistryError::UnknownHost(id))?;
    let settings = checked(&shared, &view, written)?;
    let shown = settings.written();
    shared.registry.set_power(&view.host.id, settings).await?;
    tracing::info!(host = view.host.id, by = operator.called("")?, "an operator set how the power is reached");
    Ok(Json(shown))
}

/// Settings that can be used for this host. Without a password the one that is stored stays, for the same place.
///
/// # Errors
/// 400 names the key that is wrong.
pub fn checked(shared: &Shared, view: &HostView, written: Written) -> Result<Settings, Problem> {
    let about =
        power::Host { id: &view.host.id, name: view.host.name.as_deref(), address: None, macs: &view.host.macs };
    let checked = written.check(&about, &key_file(shared), view.power.as_deref());
    checked.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, causes::in_one_line(&error)))
}

fn key_file(shared: &Shared) -> PathBuf {
    shared.config.state_dir.join("power.key")
}
