//! Promises of the Redfish driver, against the lab's service: the override is set, read back and used before the
//! reset; a password is tried once and goes nowhere else; everything ends (faults.md X6, R18).

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use regild::power::{Action, Override, PowerError, PowerState, Settings};

use crate::desk::{Desk, logged, tries};
use crate::lab::redfish::{PASSWORD, Redfish, Switch, USER, basic};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub fn service(on: bool) -> Redfish {
    Redfish::serve(LOOPBACK, on, |_| {})
}

pub fn settings(desk: &Desk, service: &Redfish) -> Settings {
    settings_with(desk, service, PASSWORD, "")
}

fn settings_with(desk: &Desk, service: &Redfish, password: &str, more: &str) -> Settings {
    let url = format!("http://{}", service.address);
    desk.settings(&format!(
        "driver = \"redfish\"\nurl = \"{url}\"\nuser = \"{USER}\"\npassword = \"{password}\"\nplaintext = true\n{more}"
    ))
}

#[test]
fn a_running_machine_restarts_into_the_network_once() {
    let (desk, service) = (Desk::new(), service(true));
    let settings = settings(&desk, &service);
    let report = desk.done(&settings, Action::BootToNetwork);
    assert_eq!(report.boot_override, Some(Override::Checked));
    assert_eq!(report.state, PowerState::On);
    assert!(report.steps.iter().all(|step| step.tries == 1), "{report:?}");
    assert_eq!(service.bmc().switched, [Switch::Off, Switch::On { network: true }]);
    assert_eq!(service.count("POST"), 1);

    // Used up: the boot after it is the machine's own.
    desk.done(&settings, Action::PowerOff);
    assert_eq!(desk.done(&settings, Action::Status).state, PowerState::Off);
    assert_eq!(service.bmc().enabled, "Disabled");
}

#[test]
fn a_machine_that_is_off_is_switched_on_into_the_network() {
    let (desk, service) = (Desk::new(), service(false));
    let report = desk.done(&settings(&desk, &service), Action::BootToNetwork);
    assert_eq!(service.bmc().switched, [Switch::On { network: true }]);
    assert_eq!((report.boot_override, report.state), (Some(Override::Checked), PowerState::On));
}

#[test]
fn status_and_off_when_it_is_off_change_nothing() {
    let (desk, service) = (Desk::new(), service(false));
    let settings = settings(&desk, &service);
    assert_eq!(desk.done(&settings, Action::Status).state, PowerState::Off);
    assert_eq!(desk.done(&settings, Action::PowerOff).state, PowerState::Off);
    assert_eq!(service.count("POST") + service.count("PATCH"), 0);
}

#[test]
fn a_wrong_password_is_tried_once() {
    let (desk, service) = (Desk::new(), service(true));
    let settings = settings_with(&desk, &service, "wr0ng-W0rd", "");
    let (error, report) = desk.fails(&settings, Action::BootToNetwork);
    assert!(matches!(error, PowerError::WrongPassword { .. }), "{error}");
    let wrong = service.bmc().requests.iter().filter(|request| !request.line.contains(" /redfish/v1/ ")).count();
    assert_eq!(wrong, 1, "a controller that locks accounts would have counted more");
    assert_eq!(tries(&report, "find the system: failed"), 1);
    assert!(error.to_string().contains(USER) && !error.to_string().contains("wr0ng"), "{error}");
}

#[test]
fn a_busy_controller_is_asked_again_and_then_works() {
    let (desk, service) = (Desk::new(), service(true));
    service.bmc().quirks.busy = 2;
    let report = desk.done(&settings(&desk, &service), Action::BootToNetwork);
    assert_eq!(tries(&report, "find the system"), 3);
    assert_eq!(report.boot_override, Some(Override::Checked));
}

#[test]
fn a_controller_that_stays_busy_is_given_up() {
    let (desk, service) = (Desk::new(), service(true));
    service.bmc().quirks.busy = u32::MAX;
    let (error, report) = desk.fails(&settings(&desk, &service), Action::BootToNetwork);
    assert!(matches!(&error, PowerError::Busy { said, .. } if said == "503: starting up"), "{error}");
    assert_eq!(tries(&report, "find the system: failed"), desk.power.limits.tries_max);
}

#[test]
fn a_controller_that_hangs_costs_a_bounded_time() {
    let (mut desk, service) = (Desk::new(), service(true));
    desk.power.limits.request = Duration::from_millis(300);
    service.bmc().quirks.silent = Some("GET");
    let settings = settings(&desk, &service);
    let (error, report) = desk.fails(&settings, Action::Status);
    assert!(matches!(error, PowerError::NoAnswer { .. }), "{error}");
    assert_eq!(tries(&report, "find the system: failed"), desk.power.limits.tries_max);

    // The whole action has a limit of its own, and says at which step it struck.
    desk.power.limits.request = Duration::from_secs(50);
    desk.power.limits.action = Duration::from_millis(500);
    let (error, _) = desk.fails(&settings, Action::Status);
    assert!(matches!(&error, PowerError::TimedOut { step, .. } if step == "find the system"), "{error}");
}

/// A restart whose answer is lost may have happened: twice would be two restarts. A switch-on shows in the state.
#[test]
fn a_reset_whose_answer_is_lost_is_not_repeated() {
    let mut desk = Desk::new();
    desk.power.limits.request = Duration::from_millis(500);
    let running = service(true);
    running.bmc().quirks.silent = Some("POST");
    let (error, report) = desk.fails(&settings(&desk, &running), Action::BootToNetwork);
    assert!(matches!(error, PowerError::NoAnswer { .. }), "{error}");
    assert_eq!((running.count("POST"), report.boot_override), (1, Some(Override::Checked)));

    let off = service(false);
    off.bmc().quirks.silent = Some("POST");
    let report = desk.done(&settings(&desk, &off), Action::BootToNetwork);
    assert_eq!((off.count("POST"), report.state), (1, PowerState::On));
}

#[test]
fn a_state_that_does_not_come_is_awaited_for_a_while_only() {
    let (mut desk, service) = (Desk::new(), service(true));
    desk.power.limits.state = Duration::from_millis(300);
    service.bmc().reset_types = vec!["GracefulShutdown"];
    service.bmc().quirks.stays_on = true;
    let (error, report) = desk.fails(&settings(&desk, &service), Action::PowerOff);
    let (wanted, seen) = (PowerState::Off, PowerState::On);
    assert!(
        matches!(&error, PowerError::StateNotReached { wanted: w, seen: s, .. } if (*w, *s) == (wanted, seen)),
        "{error}"
    );
    assert_eq!(report.state, PowerState::On);
}

#[test]
fn a_redirect_gets_no_credentials() {
    let (desk, service) = (Desk::new(), service(true));
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let to = format!("http://{}/redfish/v1/", stranger.local_addr().unwrap());
    service.bmc().quirks.redirect = Some(to.clone());
    let (error, _) = desk.fails(&settings(&desk, &service), Action::Status);
    assert!(matches!(&error, PowerError::Redirected { to: named, .. } if *named == to), "{error}");
    assert!(stranger.accept().is_err(), "the driver went where it was pointed to");
    assert_eq!(service.bmc().requests.len(), 1, "it was tried again");
}

/// Links are paths on this controller, whatever they look like.
#[test]
fn a_link_to_another_host_gets_no_credentials() {
    let (desk, service) = (Desk::new(), service(true));
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let to = stranger.local_addr().unwrap();
    for link in [format!("http://{to}/x"), format!("//{to}/x"), "/a b".into(), "/a\r\nX: y".into(), String::new()] {
        service.bmc().quirks.systems_at = Some(Box::leak(link.clone().into_boxed_str()));
        let (error, _) = desk.fails(&settings(&desk, &service), Action::Status);
        assert!(matches!(error, PowerError::OddAnswer { .. }), "{link}: {error}");
    }
    assert!(stranger.accept().is_err(), "the driver went where it was pointed to");
}

/// Promise: no log line at any level, no error and no report holds the password, in plain or as sent.
#[test]
fn the_password_is_in_no_log_no_error_and_no_report() {
    let (desk, service) = (Desk::new(), service(true));
    service.bmc().quirks.echoes = true;
    let sent = basic(USER, PASSWORD);
    let mut shown = String::new();
    let log = logged(|| {
        let settings = settings(&desk, &service);
        shown += &format!("{settings:?} {:?} {:?}", desk.power, desk.act(&settings, Action::BootToNetwork));
        service.bmc().quirks.mode_written = Some(true);
        service.bmc().mode = None;
        let (error, report) = desk.fails(&settings, Action::BootToNetwork);
        shown += &format!("{error} {error:?} {report:?}");
        let wrong = settings_with(&desk, &service, "wr0ng-W0rd", "");
        shown += &format!("{:?}", desk.act(&wrong, Action::Status));
    });
    assert!(log.contains("power: done") && log.contains("boot-to-network"), "nothing was logged: {log}");
    assert!(shown.contains("you said"), "the controller did not echo: {shown}");
    for secret in [PASSWORD, "wr0ng-W0rd", &sent["Basic ".len()..]] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!shown.contains(secret), "{secret} is in {shown}");
    }
}

#[test]
fn a_controller_of_two_machines_is_told_which() {
    let (desk, service) = (Desk::new(), service(true));
    service.bmc().quirks.second_system = true;
    let (error, _) = desk.fails(&settings(&desk, &service), Action::BootToNetwork);
    assert!(matches!(error, PowerError::NoSuchSystem { .. }), "{error}");
    assert!(error.to_string().contains("/redfish/v1/Systems/Blade.7, /redfish/v1/Systems/Blade.8"), "{error}");
    let told = settings_with(&desk, &service, PASSWORD, "system = \"Blade.7\"");
    assert_eq!(desk.done(&told, Action::BootToNetwork).boot_override, Some(Override::Checked));
    let absent = settings_with(&desk, &service, PASSWORD, "system = \"Blade.9\"");
    assert!(matches!(desk.fails(&absent, Action::Status).0, PowerError::NoSuchSystem { .. }));
}

#[test]
fn nobody_at_the_address_is_said_so() {
    let desk = Desk::new();
    let gone = service(true);
    let settings = settings(&desk, &gone);
    let address = gone.address;
    drop(gone);
    // Until the port is closed.
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (error, report) = desk.fails(&settings, Action::Status);
    assert!(matches!(error, PowerError::NotReached { .. }), "{error}");
    assert_eq!(tries(&report, "find the system: failed"), desk.power.limits.tries_max);
}
