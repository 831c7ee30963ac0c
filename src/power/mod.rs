//! Make a machine boot now, or tell who else has to.
//!
//! ```text
//!   fleet document ──▶ settings   as written -> checked, the password sealed (seal)
//!                          │
//!   scheduler ──▶ Power::act(host, settings, action)
//!                          │
//!        redfish   one-time network boot set and read back, reset, state awaited
//!        ipmi      the same through ipmitool
//!        wol       a magic packet: switches on, nothing else
//!        command   a program of the server's command directory
//!        agent     left to the installed system's agent, which asks again and again (decide::standby, http::standby)
//!        manual    left to a person: the host is rebuilt when it next boots
//! ```
//!
//! Every step has a time limit and so has the whole action. What may be asked twice is asked again with growing
//! pauses ([`attempt`]); a password that is refused is not (controllers lock accounts), and neither is a reset whose
//! answer was lost (it may have happened).
//!
//! Absent on purpose: the store, orders, and any idea of when to act. Whoever calls this knows the machine may be
//! reset, calls it for one host at a time, and writes down what came of it.

pub mod attempt;
mod child;
mod command;
pub mod error;
mod ipmi;
mod place;
mod redfish;
pub mod seal;
pub mod settings;
mod wol;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use attempt::Limits;
pub use error::PowerError;
pub use seal::SealError;
pub use settings::{Settings, SettingsError, Written};

use crate::decide::mac::Mac;
use attempt::Work;

/// Which way to a machine's power.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Redfish,
    Ipmi,
    Wol,
    Agent,
    Command,
    #[default]
    Manual,
}

impl Driver {
    const ALL: [Driver; 6] =
        [Driver::Redfish, Driver::Ipmi, Driver::Wol, Driver::Agent, Driver::Command, Driver::Manual];

    /// The driver that documents call so.
    #[must_use]
    pub fn named(name: &str) -> Option<Driver> {
        Driver::ALL.into_iter().find(|driver| driver.word() == name)
    }

    fn word(self) -> &'static str {
        match self {
            Driver::Redfish => "redfish",
            Driver::Ipmi => "ipmi",
            Driver::Wol => "wol",
            Driver::Agent => "agent",
            Driver::Command => "command",
            Driver::Manual => "manual",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    On,
    Off,
    /// Not asked, not to be asked, or on its way from one to the other.
    #[default]
    Unknown,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PowerState::On => "on",
            PowerState::Off => "off",
            PowerState::Unknown => "unknown",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The next boot goes over the network, and it is now: reset when it is on, switched on when it is off.
    BootToNetwork,
    /// Off, at once: the operating system is not asked.
    PowerOff,
    Status,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::BootToNetwork => "boot-to-network",
            Action::PowerOff => "power-off",
            Action::Status => "status",
        })
    }
}

/// What the drivers may know of a host.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    pub id: &'a str,
    pub name: Option<&'a str>,
    /// The address leased to it, for the command driver.
    pub address: Option<IpAddr>,
    pub macs: &'a [Mac],
}

/// What is known of the one-time network boot after it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Override {
    /// Read back: the network, once.
    Checked,
    /// Read back: the network, but for every boot. The server's boot answer decides then, as always.
    Continuous,
    /// Taken, but what the controller shows is something else. The machine was reset all the same: some
    /// controllers show the override only while it is being used.
    NotShown { shown: String },
    /// Taken, but it cannot be read back.
    Unreadable { why: String },
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Override::Checked => f.write_str("one network boot, read back"),
            Override::Continuous => f.write_str("network boot, but the controller keeps it for every boot"),
            Override::NotShown { shown } => {
                write!(f, "network boot was taken, but the controller shows {shown}; does the machine netboot?")
            }
            Override::Unreadable { why } => {
                write!(f, "network boot was taken, but cannot be read back ({why}); does the machine netboot?")
            }
        }
    }
}

/// One step that was done, and how often it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub what: String,
    pub tries: u32,
}

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub driver: Driver,
    pub steps: Vec<Step>,
    /// `None` where none was set: the driver has none, or it did not come to that.
    pub boot_override: Option<Override>,
    /// As last seen.
    pub state: PowerState,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done(Report),
    /// The installed agent is told to reboot into the network when it next asks.
    LeftToAgent,
    /// Nobody here can do it; this is what to say.
    LeftToPerson(String),
}

/// An action that failed, and what was done before it did.
#[derive(Debug)]
pub struct Failed {
    pub report: Box<Report>,
    pub error: PowerError,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failed {
    /// It speaks with the error's words, so what follows is the error's cause.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The power drivers of one server.
#[derive(Debug, Clone)]
pub struct Power {
    /// What the passwords are sealed with, `<state_dir>/power.key`.
    pub key_file: PathBuf,
    /// Where the programs of the command driver are; only root may write there.
    pub command_dir: PathBuf,
    pub limits: Limits,
}

impl Power {
    /// For the start of the server: a key file that is there must be usable. None is there before the first password.
    ///
    /// # Errors
    /// [`SealError`] names the file and what is wrong with it.
    pub fn check_key_file(&self) -> Result<(), SealError> {
        match seal::Key::open(&self.key_file) {
            Ok(_) | Err(SealError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does `action` on one host.
    ///
    /// # Errors
    /// [`Failed`] says what was wrong, what to do, and which steps were done.
    pub async fn act(&self, host: &Host<'_>, settings: &Settings, action: Action) -> Result<Outcome, Failed> {
        match (settings, action) {
            (Settings::Agent, Action::BootToNetwork) => return Ok(Outcome::LeftToAgent),
            (Settings::Manual, Action::BootToNetwork | Action::PowerOff) => {
                return Ok(Outcome::LeftToPerson(left_to_person(host, action)));
            }
            _ => {}
        }
        let driver = settings.driver();
        let report = Report { driver, ..Report::default() };
        let mut work = Work { host: host.id, limits: &self.limits, report, at: "begin".to_string() };
        let limit = self.limits.action;
        let done = tokio::time::timeout(limit, self.drive(host, settings, action, &mut work)).await;
        let Work { report, at, .. } = work;
        let done = done.unwrap_or(Err(PowerError::TimedOut { step: at, seconds: limit.as_secs() }));
        match done {
            Ok(()) => {
                tracing::info!(host = host.id, %driver, %action, state = %report.state, "power: done");
                Ok(Outcome::Done(report))
            }
            Err(error) => {
                let cause = crate::causes::in_one_line(&error);
                tracing::warn!(host = host.id, %driver, %action, state = %report.state, "power: {cause}");
                Err(Failed { report: Box::new(report), error })
            }
        }
    }

    async fn drive(
        &self,
        host: &Host<'_>,
        settings: &Settings,
        action: Action,
        work: &mut Work<'_>,
    ) -> Result<(), PowerError> {
        // Opened when it is needed, and only then.
        let password = |sealed| seal::Key::open(&self.key_file)?.unseal(sealed, host.id, &settings.place());
        match settings {
            Settings::Redfish(redfish) => {
                let controller = redfish::Controller::new(redfish, &password(&redfish.password)?, &self.limits)?;
                redfish::act(&controller, action, work).await
            }
            Settings::Ipmi(ipmi) => {
                let controller = ipmi::Controller::new(ipmi, password(&ipmi.password)?, &self.limits);
                ipmi::act(&controller, action, work).await
            }
            Settings::Wol(wol) => wol::act(wol, action, work).await,
            Settings::Command(command) => command::act(&self.command_dir, command, host, action, work).await,
            // Where nothing can be asked, nothing is known.
            Settings::Agent | Settings::Manual if action == Action::Status => Ok(()),
            Settings::Agent | Settings::Manual => Err(PowerError::CannotDo { driver: settings.driver(), action }),
        }
    }
}

/// The sentence for the command line.
fn left_to_person(host: &Host<'_>, action: Action) -> String {
    let name = host.name.unwrap_or(host.id);
    match action {
        Action::PowerOff => format!("{name} has no power driver: switch it off by hand"),
        _ => format!(
            "{name} has no power driver: it is rebuilt when it next boots from the network. Restart it by hand, or give \
             it a [host.power]"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host<'_> = Host { id: "h-1", name: Some("web-1"), address: None, macs: &[] };

    fn power() -> Power {
        Power { key_file: "/absent/power.key".into(), command_dir: "/absent".into(), limits: Limits::default() }
    }

    async fn act(settings: Settings, action: Action) -> Result<Outcome, Failed> {
        power().act(&HOST, &settings, action).await
    }

    /// Promise: a host without a power driver is left to a person, in a sentence that says what happens.
    #[tokio::test]
    async fn what_nobody_here_can_do_is_left_to_who_can() {
        let Outcome::LeftToPerson(sentence) = act(Settings::Manual, Action::BootToNetwork).await.unwrap() else {
            panic!("not left to a person");
        };
        assert!(sentence.contains("web-1") && sentence.contains("rebuilt when it next boots"), "{sentence}");
        assert_eq!(act(Settings::Agent, Action::BootToNetwork).await.unwrap(), Outcome::LeftToAgent);
        let failed = act(Settings::Agent, Action::PowerOff).await.unwrap_err();
        assert!(failed.to_string().contains("agent cannot power-off"), "{failed}");
        for settings in [Settings::Agent, Settings::Manual] {
            let Outcome::Done(report) = act(settings, Action::Status).await.unwrap() else { panic!() };
            assert_eq!(report.state, PowerState::Unknown);
        }
    }

    #[test]
    fn a_server_starts_without_a_key_but_not_with_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let power = Power { key_file: dir.path().join("power.key"), ..power() };
        power.check_key_file().unwrap();
        std::fs::write(&power.key_file, "short").unwrap();
        assert!(power.check_key_file().unwrap_err().to_string().contains("power.key"));
    }

    /// The scheduler acts on many hosts at once, each in a task of its own.
    #[test]
    fn an_action_can_be_a_task() {
        fn is_send<T: Send>(_: &T) {}
        let (power, settings) = (power(), Settings::Manual);
        is_send(&power.act(&HOST, &settings, Action::Status));
    }

    #[test]
    fn the_driver_s_name_is_the_one_that_documents_use() {
        for driver in Driver::ALL {
            assert_eq!(serde_json::to_value(driver).unwrap(), driver.to_string());
            assert_eq!(Driver::named(&driver.to_string()), Some(driver));
        }
    }
}
