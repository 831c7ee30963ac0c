//! Diffs told as stories: what is shown, and what is refused with which names.

use super::super::diff::{Now, NowHost, PRUNE_MAX, Prune, Refusal, Write, diff};
use super::super::*;
use super::fleet;
use super::laws::{apply, default_groups};
use crate::config::fleet::read::load;
use crate::decide::group::{DEFAULT_GROUP, Limits};
use crate::wire::fleet as wire;
use std::path::PathBuf;

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x12, 0, number])
}

fn id(number: u8) -> String {
    format!("h-5254001200{number:02x}")
}

fn host(number: u8, group: &str) -> (String, NowHost) {
    let host = NowHost {
        macs: vec![mac(number), Mac([0x52, 0x54, 1, 0x12, 0, number])],
        name: Some(format!("web-{number}")),
        group: group.to_string(),
        declared: true,
        ..NowHost::default()
    };
    (id(number), host)
}

fn take(now: &mut Now, wanted: &Fleet, prune: Prune) {
    let writes = diff(now, wanted, prune).accept().unwrap();
    apply(now, writes);
}

/// A fleet of three hosts as it stands before the documents under config/fleet come.
fn now() -> Now {
    let mut now = Now { groups: default_groups(), hosts: [1, 7, 9].map(|n| host(n, "web")).into(), ..Now::default() };
    now.groups.remove("012");
    now.groups.insert("old".into(), Group::new("old"));
    now.hosts.get_mut(&id(7)).unwrap().name = Some("compute-7".into());
    let web = now.hosts.get_mut(&id(1)).unwrap();
    web.labels.set("rack", "r11").unwrap();
    web.labels.set("protected", "db").unwrap();
    web.image = Some("debian:12.3".parse().unwrap());
    now.policy.fleet.concurrent_max = 15;
    now.reservations.insert(mac(1), "10.20.0.9".parse().unwrap());
    now.reservations.insert(mac(9), "10.20.0.19".parse().unwrap());
    now
}

/// Golden: what an operator reads before saying yes. `REGILD_GOLDEN=write` writes it anew.
#[test]
fn a_diff_says_field_by_field_what_would_change_and_which_brake_would_hold_less() {
    let diff = diff(&now(), &load(&[PathBuf::from("config/fleet")]).unwrap(), Prune::UpTo(PRUNE_MAX));
    let path = "src/config/fleet/tests/diff.txt";
    if std::env::var_os("REGILD_GOLDEN").is_some() {
        std::fs::write(path, diff.text()).unwrap();
    }
    assert_eq!(diff.text(), std::fs::read_to_string(path).unwrap());
    assert!(diff.loosens());

    let shown = diff.shown();
    let json = serde_json::to_value(&shown).unwrap();
    let web = &json["changes"].as_array().unwrap().iter().find(|change| change["id"] == id(1)).unwrap();
    assert_eq!((&web["verb"], &web["kind"], &web["name"]), (&"changed".into(), &"host".into(), &"web-1".into()));
    let image = serde_json::json!({ "field": "image", "old": "debian:12.3", "new": "debian:12.4" });
    assert!(web["fields"].as_array().unwrap().contains(&image), "{web}");
    assert_eq!(serde_json::from_value::<wire::Diff>(json).unwrap(), shown);
    diff.accept().expect("nothing is refused");
}

#[test]
fn applied_the_documents_are_what_is_there() {
    let mut now = now();
    let wanted = load(&[PathBuf::from("config/fleet")]).unwrap();
    take(&mut now, &wanted, Prune::UpTo(PRUNE_MAX));
    assert_eq!(now.groups.keys().collect::<Vec<_>>(), ["compute", DEFAULT_GROUP, "web"]);
    assert_eq!(now.hosts.keys().cloned().collect::<Vec<_>>(), [id(1), id(2), id(7)]);
    assert_eq!(now.hosts[&id(2)].macs, [mac(2)]);
    assert_eq!(now.hosts[&id(7)].group, "compute");
    assert_eq!(now.reservations.keys().copied().collect::<Vec<_>>(), [mac(1), mac(2)]);
    assert_eq!(diff(&now, &wanted, Prune::UpTo(PRUNE_MAX)).text(), "no change\n");
}

/// R7: a rebuild is an explicit verb, never a side effect of a declarative apply. The proof is the type: all that can
/// come out of a diff is taken apart in `laws::apply`, and there is no order in it. Here it is told with the document
/// that would tempt most: another image for a host, while an order is open and while none is.
#[test]
fn another_image_for_a_host_is_a_wish_and_opens_no_order() {
    for order in [None, Some(4)] {
        let mut now = now();
        now.hosts.get_mut(&id(9)).unwrap().order = order;
        let wanted = fleet("a.toml", "[[host]]\nname = \"web-9\"\nimage = \"debian:13.0\"\n");
        let writes = diff(&now, &wanted, Prune::No).accept().unwrap();
        let entry = HostEntry { image: Some("debian:13.0".parse().unwrap()), ..HostEntry::default() };
        assert_eq!(writes, [Write::Host { id: id(9), new: None, entry }]);
        apply(&mut now, writes);
        assert_eq!(now.hosts[&id(9)].order, order, "an order was opened or closed");
    }
}

#[test]
fn what_a_host_entry_leaves_out_stays_and_a_table_that_it_has_is_whole() {
    let mut now = now();
    take(&mut now, &fleet("a.toml", "[[host]]\nname = \"web-1\"\ngroup = \"default\"\n"), Prune::No);
    let web = &now.hosts[&id(1)];
    assert_eq!((web.group.as_str(), web.labels.iter().count(), web.image.is_some()), ("default", 2, true));
    let text = "[[host]]\nname = \"web-1\"\nlabels = { row = \"b\" }\n";
    let labels = diff(&now, &fleet("a.toml", text), Prune::No);
    assert_eq!(
        labels.text(),
        "~ host web-1 (h-525400120001)\n    labels.protected: db -> nothing  (a brake holds less)\n    \
         labels.rack: r11 -> nothing\n    labels.row: b\n\n1 host changed. No order is opened by this.\n"
    );
    apply(&mut now, labels.accept().unwrap());
    assert_eq!(now.hosts[&id(1)].labels.iter().collect::<Vec<_>>(), [("row", "b")]);
    take(&mut now, &fleet("a.toml", "[[host]]\nname = \"web-1\"\nlabels = {}\n"), Prune::No);
    assert_eq!(now.hosts[&id(1)].labels.iter().count(), 0);
}

fn refusals(now: &Now, text: &str, prune: Prune) -> Vec<String> {
    let diff = diff(now, &fleet("a.toml", text), prune);
    let said = diff.shown().refusals;
    assert_eq!(diff.clone().accept().is_err(), !said.is_empty());
    for line in &said {
        assert!(diff.text().contains(&format!("refused: {line}\n")), "{line} is not shown");
    }
    said
}

const WEB_1: &str = "[[host]]\nname = \"web-1\"\n";

/// R1: an empty selection matches nothing and is an error.
#[test]
fn documents_that_say_nothing_remove_nothing() {
    assert_eq!(
        refusals(&now(), "# all of it is a comment\n", Prune::UpTo(1_000)),
        ["the documents say nothing, so --prune would remove everything; nothing is removed"]
    );
    assert!(refusals(&now(), "", Prune::No).is_empty());
    // Documents about groups alone say nothing of hosts and reservations, so none of those goes.
    let text = "[group.web]\n";
    let writes = diff(&now(), &fleet("a.toml", text), Prune::UpTo(1_000)).accept().unwrap();
    assert_eq!(writes, [Write::RemoveGroup("old".into())]);
}

#[test]
fn a_host_with_an_open_order_is_not_removed() {
    let mut now = now();
    assert!(refusals(&now, WEB_1, Prune::UpTo(2)).is_empty());
    now.hosts.get_mut(&id(9)).unwrap().order = Some(3);
    assert_eq!(refusals(&now, WEB_1, Prune::UpTo(2)), ["an order is open for hosts that would be removed: web-9"]);
    assert!(refusals(&now, WEB_1, Prune::No).is_empty());
}

/// Without its record a machine of such a group would be anybody's again.
#[test]
fn to_prune_a_host_of_a_guarded_group_makes_a_brake_hold_less() {
    for (protected, confirm) in [(true, false), (false, true)] {
        let mut now = now();
        assert!(!diff(&now, &fleet("a.toml", WEB_1), Prune::UpTo(2)).loosens());
        let group = now.hosts[&id(9)].group.clone();
        let guarded = Group { protected, confirm, ..now.groups[&group].clone() };
        now.groups.insert(group, guarded);
        assert!(diff(&now, &fleet("a.toml", WEB_1), Prune::UpTo(2)).loosens());
    }
}

#[test]
fn more_than_a_few_are_only_removed_when_the_operator_gives_their_number() {
    let mut now = now();
    now.hosts.extend((20..60).map(|number| host(number, "web")));
    let said = refusals(&now, WEB_1, Prune::UpTo(PRUNE_MAX));
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("--prune would remove 42 hosts, at most 10 at once: compute-7, web-9, web-20, "),
        "{said:?}"
    );
    assert!(said[0].ends_with("web-37 and 22 more"), "{said:?}");
    assert_eq!(refusals(&now, WEB_1, Prune::UpTo(41)).len(), 1);
    assert!(refusals(&now, WEB_1, Prune::UpTo(42)).is_empty());
}

#[test]
fn a_machine_that_was_only_seen_belongs_to_no_document_and_stays() {
    let mut now = now();
    now.hosts.get_mut(&id(9)).unwrap().declared = false;
    take(&mut now, &fleet("a.toml", WEB_1), Prune::UpTo(1));
    assert_eq!(now.hosts.keys().cloned().collect::<Vec<_>>(), [id(1), id(9)]);
    assert!(!now.fleet().hosts.contains_key(&HostKey::Mac(mac(9))), "export declares what nobody declared");
}

#[test]
fn what_a_person_or_a_document_gave_a_host_makes_it_declared() {
    use crate::decide::host::{Host, ImageChoice, State};
    let seen = Host::discovered(mac(1), DEFAULT_GROUP, 1);
    let image = ImageChoice { name: "debian:12.4".into(), manifest: String::new() };
    let mut labelled = seen.clone();
    labelled.labels.set("rack", "r1").unwrap();
    assert!(!NowHost::of(&seen, None).declared);
    for host in [
        Host { state: State::Enrolled, ..seen.clone() },
        Host { group: "web".into(), ..seen.clone() },
        Host { desired: Some(image), ..seen.clone() },
        labelled,
    ] {
        assert!(NowHost::of(&host, None).declared, "{host:?}");
    }
    let laid_out = NowHost::of(&Host { name: Some("web-1".into()), generation: 4, ..seen }, None);
    assert_eq!((laid_out.macs, laid_out.name.as_deref(), laid_out.order), (vec![mac(1)], Some("web-1"), None));
}

#[test]
fn a_group_goes_only_when_no_host_is_left_in_it_and_no_order_hangs_on_it() {
    let mut now = now();
    let other = "[group.other]\n";
    assert_eq!(
        refusals(&now, other, Prune::UpTo(2)),
        ["there would be no group web for its hosts: web-1, compute-7, web-9"]
    );
    let moved = "[group.other]\n[[host]]\nname = \"web-1\"\ngroup = \"other\"\n[[host]]\nname = \"web-9\"\ngroup = \"other\"\n\
                 [[host]]\nname = \"compute-7\"\ngroup = \"other\"\n";
    assert!(refusals(&now, moved, Prune::UpTo(2)).is_empty());
    // Moving the host away is not enough while its order runs by the limits and deadlines of the old group.
    now.hosts.get_mut(&id(9)).unwrap().order = Some(3);
    assert_eq!(
        refusals(&now, moved, Prune::UpTo(2)),
        ["group web would be removed while an order is open for its hosts: web-9"]
    );
}

#[test]
fn the_default_group_and_the_policy_are_never_pruned() {
    let mut now = now();
    now.policy.confirm_above = 3;
    let text = "[group.web]\n[[host]]\nname = \"web-1\"\n";
    take(&mut now, &fleet("a.toml", text), Prune::UpTo(100));
    assert!(now.groups.contains_key(DEFAULT_GROUP));
    assert_eq!(now.policy.confirm_above, 3);
}

#[test]
fn what_does_not_fit_together_is_refused_whichever_document_says_it() {
    let two_of_one = "[[host]]\nmac = \"52:54:00:12:00:01\"\n[[host]]\nmac = \"52:54:01:12:00:01\"\n";
    let by_name_too = "[[host]]\nmac = \"52:54:00:12:00:01\"\n[[host]]\nname = \"web-1\"\n";
    for (text, wanted) in [
        ("[[host]]\nname = \"web-77\"\n", "no host is called web-77; a new host needs its MAC"),
        (two_of_one, "two entries mean the host h-525400120001, one of them as 52:54:01:12:00:01"),
        (by_name_too, "two entries mean the host h-525400120001, one of them as web-1"),
        (
            "[[host]]\nmac = \"52:54:00:12:00:02\"\nname = \"web-9\"\n",
            "two hosts would be called web-9: h-525400120002 and h-525400120009",
        ),
        ("[[host]]\nname = \"web-1\"\ngroup = \"wbe\"\n", "there would be no group wbe for its hosts: web-1"),
        (
            "[[reservation]]\nmac = \"52:54:00:12:00:02\"\naddress = \"10.20.0.19\"\n",
            "10.20.0.19 would be reserved twice: for 52:54:00:12:00:09 and for 52:54:00:12:00:02",
        ),
    ] {
        assert_eq!(refusals(&now(), text, Prune::No), [wanted], "{text}");
    }
    // Two hosts that change names, and addresses, with each other: every step would clash, the end does not.
    let swapped = "[[host]]\nid = \"h-525400120001\"\nname = \"web-9\"\n[[host]]\nid = \"h-525400120009\"\nname = \"web-1\"\n\
                   [[reservation]]\nmac = \"52:54:00:12:00:01\"\naddress = \"10.20.0.19\"\n\
                   [[reservation]]\nmac = \"52:54:00:12:00:09\"\naddress = \"10.20.0.9\"\n";
    assert!(refusals(&now(), swapped, Prune::No).is_empty());
    let error = diff(&now(), &fleet("a.toml", two_of_one), Prune::No).accept().unwrap_err();
    assert!(matches!(&error.0[..], [Refusal::SameHost { .. }]));
    assert!(error.to_string().starts_with("nothing was changed:\n  two entries"));
}

/// A second person must see every change by which a brake holds less, and is not called for one that tightens.
#[test]
fn every_brake_that_would_hold_less_is_marked() {
    let mut now = now();
    let web = now.groups.get_mut("web").unwrap();
    (web.protected, web.confirm) = (true, true);
    now.policy.denied = [mac(1)].into();
    now.policy.fleet = Limits::default();
    let denying = |line: &str| format!("[policy]\ndenied = [\"52:54:00:12:00:01\"]\n{line}\n");
    let all = "[group.web]\nprotected = true\nconfirm = true\n";
    for (text, field) in [
        ("[group.web]\nconfirm = true\n", "protected"),
        ("[group.web]\nprotected = true\n", "confirm"),
        (&format!("{all}[group.web.limits]\nconcurrent_max = 21\n"), "limits.concurrent_max"),
        (&format!("{all}[group.web.limits]\norders_per_hour_max = 61\n"), "limits.orders_per_hour_max"),
        (&denying("confirm_above = 51"), "confirm_above"),
        (&denying("expect_above = 6"), "expect_above"),
        (&denying("breaker.percent_max = \"10%\""), "breaker.percent_max"),
        (&denying("breaker.hosts_min = 4"), "breaker.hosts_min"),
        (&denying("fleet.concurrent_max = 21"), "fleet.concurrent_max"),
        (&denying("rack.orders_per_hour_max = 21"), "rack.orders_per_hour_max"),
        ("[policy]\ndenied = [\"52:54:00:12:00:02\"]\n", "denied"),
        ("[[host]]\nname = \"web-1\"\nlabels = {}\n", "labels.protected"),
        ("[[host]]\nname = \"web-1\"\ngroup = \"old\"\n", "group"),
    ] {
        let diff = diff(&now, &fleet("a.toml", text), Prune::No);
        let changes = diff.shown().changes;
        let marked: Vec<&str> = changes
            .iter()
            .flat_map(|change| &change.fields)
            .filter(|field| field.loosens)
            .map(|f| f.field.as_str())
            .collect();
        assert!(marked.contains(&field), "{text}\n{}", diff.text());
    }
    // Removed and declared anew, a host would come back without its protection.
    now.hosts.get_mut(&id(9)).unwrap().labels.set("protected", "yes").unwrap();
    assert!(diff(&now, &fleet("a.toml", WEB_1), Prune::UpTo(2)).loosens());
    assert!(!diff(&now, &fleet("a.toml", "[[host]]\nname = \"web-9\"\n"), Prune::UpTo(2)).text().contains("web-9"));
    for text in [
        &format!("{all}[group.web.limits]\nconcurrent_max = 1\norders_per_hour_max = 1\n"),
        "[group.old]\nprotected = true\nconfirm = true\n",
        &denying(
            "confirm_above = 1
expect_above = 1
breaker = { percent_max = \"1%\", hosts_min = 1 }
\
             rack = { concurrent_max = 1, orders_per_hour_max = 1 }",
        ),
        "[policy]
denied = [\"52:54:00:12:00:01\", \"52:54:00:12:00:02\"]
",
        "[[host]]\nname = \"web-1\"\nlabels = { protected = \"yes\", rack = \"r2\" }\n",
    ] {
        let diff = diff(&now, &fleet("a.toml", text), Prune::No);
        assert!(!diff.is_empty() && !diff.loosens(), "{text}\n{}", diff.text());
    }
}
