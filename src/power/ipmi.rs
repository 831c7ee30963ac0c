//! IPMI 2.0 through `ipmitool`: it knows every cipher and every controller's quirk. One process for each question;
//! the password is in that process's environment and nowhere else.

mod answer;

use std::ffi::OsStr;
use std::time::Duration;

use super::attempt::{Limits, Repeat, Work};
use super::child::{self, ChildError};
use super::seal::Secret;
use super::settings::{BootMode, Ipmi};
use super::{Action, Override, PowerError, PowerState};

/// Seconds for one packet's answer, and how often it is sent. ipmitool's own waits end long before ours, so that it
/// can say what was wrong.
const PACKET: [&str; 4] = ["-N", "2", "-R", "3"];

pub(super) struct Controller<'a> {
    settings: &'a Ipmi,
    password: Secret,
    limit: Duration,
    place: String,
}

impl<'a> Controller<'a> {
    pub fn new(settings: &'a Ipmi, password: Secret, limits: &Limits) -> Controller<'a> {
        let place = format!("ipmi {}:{}", settings.address, settings.port);
        Controller { settings, password, limit: limits.request, place }
    }

    /// ipmitool's command line, which everybody on this server can read.
    fn arguments(&self, words: &[&str]) -> Vec<String> {
        let Ipmi { address, port, user, cipher, .. } = self.settings;
        // -v: without it a wrong password and a silent controller look the same. (-vvv would print session keys.)
        // -E: the password is in the environment. -P overwrites it on the command line, after the moment that counts.
        // -L OPERATOR: enough for power and boot override, so that the account need not be an administrator's.
        // -C: otherwise it asks the controller which suites it has, and takes what anybody answers.
        let line = ["-v", "-I", "lanplus", "-H", address, "-p", &port.to_string(), "-U", user, "-E", "-L", "OPERATOR"]
            .map(str::to_string);
        let suite = ["-C".to_string(), cipher.to_string()];
        let rest = PACKET.iter().chain(words).map(|word| word.to_string());
        line.into_iter().chain(suite).chain(rest).collect()
    }

    /// Runs `ipmitool ... WORDS` and gives what it printed.
    async fn ask(&self, words: &[&str]) -> Result<String, PowerError> {
        let arguments = self.arguments(words);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let environment = [("IPMI_PASSWORD", self.password.expose())];
        let run = child::run(OsStr::new("ipmitool"), &arguments, &environment, self.limit).await;
        let finished = run.map_err(|error| match error {
            ChildError::NotStarted(error) => PowerError::Program {
                program: "ipmitool".to_string(),
                why: format!("{error}; install it (Debian: apt-get install ipmitool)"),
            },
            ChildError::TimedOut => PowerError::NoAnswer {
                place: self.place.clone(),
                why: format!("ipmitool did not end within {} s", self.limit.as_secs()),
            },
            ChildError::TalksTooMuch => self.odd("more than 64 KiB"),
        })?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        Err(answer::failure(&self.place, &self.settings.user, self.settings.cipher, &words.join(" "), &finished.stderr))
    }

    fn odd(&self, what: &str) -> PowerError {
        PowerError::OddAnswer { place: self.place.clone(), what: what.to_string() }
    }

    async fn state(&self) -> Result<PowerState, PowerError> {
        let printed = self.ask(&["chassis", "power", "status"]).await?;
        answer::power_state(&printed).map_err(|what| self.odd(&what))
    }
}

pub(super) async fn act(bmc: &Controller<'_>, action: Action, work: &mut Work<'_>) -> Result<(), PowerError> {
    let state = work.step("ask for the power state", Repeat::Safe, || bmc.state()).await?;
    work.report.state = state;
    match (action, state) {
        (Action::Status, _) | (Action::PowerOff, PowerState::Off) => Ok(()),
        (Action::PowerOff, _) => switch(bmc, "off", PowerState::Off, work).await,
        (Action::BootToNetwork, _) => {
            set_override(bmc, work).await?;
            if state == PowerState::Off {
                return switch(bmc, "on", PowerState::On, work).await;
            }
            match switch(bmc, "cycle", PowerState::On, work).await {
                // Optional in the specification (section 28.3), and refused by some while the machine is on.
                Err(PowerError::Refused { .. }) => {
                    switch(bmc, "off", PowerState::Off, work).await?;
                    switch(bmc, "on", PowerState::On, work).await
                }
                done => done,
            }
        }
    }
}

async fn switch(bmc: &Controller<'_>, how: &str, wanted: PowerState, work: &mut Work<'_>) -> Result<(), PowerError> {
    let what = format!("switch it: power {how}");
    let command = ["chassis", "power", how];
    let asked = work.step(&what, Repeat::OnlyIfNotCarriedOut, || bmc.ask(&command));
    match asked.await {
        // Whether it switched on or off shows in the state; whether it cycled does not.
        Err(PowerError::NoAnswer { .. }) if how != "cycle" => {}
        asked => drop(asked?),
    }
    work.wait_for(wanted, || bmc.state()).await
}

/// Valid for one boot, and cleared by the controller when the reset does not follow within 60 s.
async fn set_override(bmc: &Controller<'_>, work: &mut Work<'_>) -> Result<(), PowerError> {
    // Without efiboot a UEFI machine is told to netboot as a BIOS one would.
    let words: &[&str] = match bmc.settings.boot_mode {
        BootMode::Uefi => &["chassis", "bootdev", "pxe", "options=efiboot"],
        BootMode::Bios => &["chassis", "bootdev", "pxe"],
    };
    let set = work.step("set one network boot", Repeat::Safe, || bmc.ask(words));
    set.await.map_err(|error| match error {
        PowerError::Refused { place, said, .. } => PowerError::OverrideRefused { place, said },
        other => other,
    })?;
    let read =
        work.step("read the boot override back", Repeat::Safe, || bmc.ask(&["chassis", "bootparam", "get", "5"]));
    let shown = match read.await {
        Ok(printed) => answer::boot_override(&printed, bmc.settings.boot_mode),
        Err(PowerError::Refused { said, .. }) => Override::Unreadable { why: said },
        Err(error) => return Err(error),
    };
    work.report.boot_override = Some(shown);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::seal::Key;

    /// ipmitool overwrites the password of -P on its command line, so a look at /proc finds it only sometimes.
    #[test]
    fn the_password_is_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::open_or_create(&dir.path().join("power.key")).unwrap();
        let password = Secret::new("Corr3ct.h0rse".to_string());
        let settings = Ipmi {
            address: "10.0.0.5".into(),
            port: 623,
            user: "regild".into(),
            password: key.seal(&password, "h-1", "p"),
            cipher: 17,
            boot_mode: BootMode::Uefi,
        };
        let controller = Controller::new(&settings, password, &Limits::default());
        let line = controller.arguments(&["chassis", "power", "status"]).join(" ");
        let expected = "-v -I lanplus -H 10.0.0.5 -p 623 -U regild -E -L OPERATOR -C 17 -N 2 -R 3 chassis power status";
        assert_eq!(line, expected);
    }
}
