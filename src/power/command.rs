//! A program of the operator's for everything that has no driver here: a switched outlet, a KVM host, a rack's own
//! controller.
//!
//! It gets REGILD_HOST (the id), REGILD_NAME and REGILD_ADDRESS (empty where unknown) and REGILD_ACTION
//! (`boot-to-network`, `power-off`, `status`) in an otherwise empty environment, no arguments and no input. It ends with
//! 0 when it is done, with 75 (EX_TEMPFAIL) when it wants to be run again a little later, with anything else when it
//! failed; the last line of its standard error is shown. For `status` it prints `on`, `off` or `unknown`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::attempt::{Repeat, Work};
use super::child::{self, ChildError, Finished};
use super::error::printable;
use super::settings::Command;
use super::{Action, Host, PowerError, PowerState};

/// sysexits.h: "temporary failure, user is invited to retry".
const TEMPORARY: i32 = 75;

pub(super) async fn act(
    directory: &Path,
    settings: &Command,
    host: &Host<'_>,
    action: Action,
    work: &mut Work<'_>,
) -> Result<(), PowerError> {
    let program = directory.join(&settings.program);
    safe(&program).map_err(|why| PowerError::Program { program: program.display().to_string(), why })?;
    let address = host.address.map(|address| address.to_string()).unwrap_or_default();
    let asked = action.to_string();
    let environment = [
        ("REGILD_HOST", host.id),
        ("REGILD_NAME", host.name.unwrap_or_default()),
        ("REGILD_ADDRESS", &address),
        ("REGILD_ACTION", &asked),
    ];
    let what = format!("run {}", program.display());
    let finished = work.step(&what, Repeat::OnlyIfNotCarriedOut, || async {
        let run = child::run(program.as_os_str(), &[], &environment, settings.timeout).await;
        judged(&program, run, settings)
    });
    let finished = finished.await?;
    if action == Action::Status {
        work.report.state = state(&program, &finished.stdout)?;
    }
    Ok(())
}

/// Whoever can write a program that the server runs is the server.
fn safe(program: &Path) -> Result<(), String> {
    let directory = program.parent().unwrap_or(Path::new("/"));
    for path in [directory, program] {
        let data = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
        if data.mode() & 0o022 != 0 {
            return Err(format!("{} can be written by others; do: chmod go-w {0}", path.display()));
        }
        if data.uid() != 0 && data.uid() != rustix::process::geteuid().as_raw() {
            return Err(format!("{} belongs to user {}; do: chown root", path.display(), data.uid()));
        }
    }
    Ok(())
}

fn judged(program: &Path, run: Result<Finished, ChildError>, settings: &Command) -> Result<Finished, PowerError> {
    let name = program.display().to_string();
    let finished = run.map_err(|error| match error {
        ChildError::NotStarted(error) => PowerError::Program { program: name.clone(), why: error.to_string() },
        ChildError::TimedOut => {
            PowerError::TimedOut { step: format!("run {name}"), seconds: settings.timeout.as_secs() }
        }
        ChildError::TalksTooMuch => {
            PowerError::Program { program: name.clone(), why: "it prints more than 64 KiB".into() }
        }
    })?;
    if finished.status.success() {
        return Ok(finished);
    }
    let last = finished.stderr.lines().rev().find(|line| !line.trim().is_empty());
    let said = last.map_or_else(|| "it said nothing on standard error".to_string(), printable);
    if finished.status.code() == Some(TEMPORARY) {
        return Err(PowerError::Busy { place: name, said, retry_after: None });
    }
    Err(PowerError::Command { program: name, status: finished.status.to_string(), said })
}

fn state(program: &Path, printed: &str) -> Result<PowerState, PowerError> {
    match printed.trim() {
        "on" => Ok(PowerState::On),
        "off" => Ok(PowerState::Off),
        "unknown" => Ok(PowerState::Unknown),
        other => Err(PowerError::OddAnswer {
            place: program.display().to_string(),
            what: format!("it must print on, off or unknown, not {:?}", printable(other)),
        }),
    }
}
