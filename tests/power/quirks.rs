//! What controllers do with a one-time boot override besides doing it. Promise: what can be worked around is; what
//! cannot is said, and a machine is never reset after a clear refusal.

use regild::power::{Action, Override, PowerError};

use crate::desk::{Desk, tries};
use crate::lab::redfish::{Quirks, Redfish, Switch};
use crate::redfish::{service, settings};

fn with(quirks: Quirks) -> (Desk, Redfish) {
    let service = service(true);
    service.bmc().quirks = quirks;
    (Desk::new(), service)
}

fn boots(quirks: Quirks) -> (Override, Redfish) {
    let (desk, service) = with(quirks);
    let report = desk.done(&settings(&desk, &service), Action::BootToNetwork);
    assert!(service.bmc().switched.contains(&Switch::Off), "it was not reset");
    (report.boot_override.expect("an override was set"), service)
}

#[test]
fn an_override_that_stays_for_every_boot_is_reported() {
    assert_eq!(boots(Quirks { continuous: true, ..Quirks::default() }).0, Override::Continuous);
}

#[test]
fn an_override_that_is_not_shown_is_reported() {
    let (shown, _) = boots(Quirks { forgets: true, ..Quirks::default() });
    assert_eq!(shown, Override::NotShown { shown: "None, Disabled".into() });
}

#[test]
fn a_mode_that_must_be_written_or_must_not_be_is_found_out() {
    for wanted in [true, false] {
        let (shown, service) = boots(Quirks { mode_written: Some(wanted), ..Quirks::default() });
        assert_eq!(shown, Override::Checked, "mode wanted: {wanted}");
        assert_eq!(service.bmc().mode.as_deref(), Some("UEFI"));
    }
}

#[test]
fn a_mode_that_falls_back_is_put_right_before_the_reset() {
    let (shown, service) = boots(Quirks { mode_falls_back: true, ..Quirks::default() });
    assert_eq!(shown, Override::Checked);
    assert_eq!(service.bmc().mode.as_deref(), Some("UEFI"), "the machine would netboot by BIOS");
}

#[test]
fn settings_of_the_next_boot_may_lie_elsewhere() {
    assert_eq!(boots(Quirks { pending_only: true, ..Quirks::default() }).0, Override::Checked);
}

#[test]
fn a_change_by_somebody_else_is_read_anew() {
    let (desk, service) = with(Quirks { contended: 3, ..Quirks::default() });
    let report = desk.done(&settings(&desk, &service), Action::BootToNetwork);
    assert_eq!(report.boot_override, Some(Override::Checked));
    assert!(tries(&report, "set one network boot") > 1, "{report:?}");
}

#[test]
fn tags_shown_weak_and_compared_strong_are_understood() {
    assert_eq!(boots(Quirks { weak_tags: true, ..Quirks::default() }).0, Override::Checked);
}

#[test]
fn reset_types_in_a_resource_of_their_own_are_read_and_heeded() {
    let (desk, service) = with(Quirks { action_info: true, ..Quirks::default() });
    service.bmc().reset_types = vec!["On", "ForceOff"];
    desk.done(&settings(&desk, &service), Action::BootToNetwork);
    assert_eq!(service.bmc().switched, [Switch::Off, Switch::On { network: true }]);
    assert_eq!(service.count("POST"), 2, "off, then on");
}

#[test]
fn a_refused_override_leaves_the_machine_running() {
    let targets = Quirks { targets: Some(vec!["Hdd", "Cd"]), ..Quirks::default() };
    let changes = Quirks { pending_only: true, mode_written: Some(true), ..Quirks::default() };
    for (quirks, says) in [(targets, "Hdd, Cd"), (changes, "FutureState")] {
        let (desk, service) = with(quirks);
        service.bmc().mode = None;
        let (error, _) = desk.fails(&settings(&desk, &service), Action::BootToNetwork);
        assert!(matches!(&error, PowerError::OverrideRefused { said, .. } if said.contains(says)), "{error}");
        assert_eq!(service.bmc().switched, [], "a service was down for nothing");
    }
}

#[test]
fn an_account_that_may_only_look_is_told_what_it_lacks() {
    let (desk, service) = with(Quirks { read_only: true, ..Quirks::default() });
    let (error, _) = desk.fails(&settings(&desk, &service), Action::BootToNetwork);
    assert!(matches!(&error, PowerError::NotAllowed { said, .. } if said.contains("ConfigureComponents")), "{error}");
    assert_eq!(service.count("PATCH"), 1, "it was tried again");
}

#[test]
fn a_machine_that_cannot_be_reset_gets_no_override() {
    let (desk, service) = with(Quirks::default());
    service.bmc().reset_types = vec!["GracefulRestart", "Nmi"];
    let (error, _) = desk.fails(&settings(&desk, &service), Action::BootToNetwork);
    assert!(error.to_string().contains("GracefulRestart, Nmi"), "{error}");
    assert_eq!(service.count("PATCH"), 0, "the next boot, by whomever, would go over the network");
}
