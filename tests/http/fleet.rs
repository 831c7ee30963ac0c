//! Fleet documents over the real binary: `apply`, `diff`, `export`, `inventory` and channels say what the fleet is and
//! should be, and none of them opens an order.

use std::process::Output;

use serde_json::{Value, json};

use crate::lab::{IMAGE, Lab, Machine};

/// Two racks of six hosts, of which two are protected; a policy and a group tighter than the defaults.
pub fn documents(lab: &Lab) -> String {
    let hosts: String = (1..=12)
        .map(|number| {
            let rack = if number <= 6 { "r1" } else { "r2" };
            let protected = if [3, 9].contains(&number) { ", protected = \"yes\"" } else { "" };
            format!(
                "[[host]]\nmac = \"{}\"\nname = \"n{number}\"\ngroup = \"web\"\nimage = \"{IMAGE}\"\n\
                 labels = {{ rack = \"{rack}\"{protected} }}\n",
                mac_of(number)
            )
        })
        .collect();
    let text = format!(
        "[policy]\nexpect_above = 3\n[policy.fleet]\nconcurrent_max = 12\n[policy.rack]\nconcurrent_max = 4\n\
         [group.web]\n[group.web.limits]\nconcurrent_max = 11\n[group.db]\nconfirm = true\n{hosts}\
         [[reservation]]\nmac = \"{}\"\naddress = \"10.77.0.20\"\n",
        mac_of(1)
    );
    lab.document("fleet.toml", &text)
}

pub fn mac_of(number: u8) -> String {
    format!("52:54:00:12:00:{number:02x}")
}

/// A lab with [`documents`] applied.
pub fn with_fleet() -> (Lab, String) {
    let lab = Lab::new();
    lab.import_image();
    let documents = documents(&lab);
    lab.regild(&["apply", "-f", &documents]);
    (lab, documents)
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A command that must fail with exit status 1: what it said.
#[track_caller]
pub fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", said(output));
    said(output)
}

#[track_caller]
pub fn fails(lab: &Lab, arguments: &[&str]) -> String {
    refused(&lab.try_regild(arguments))
}

pub fn hosts(lab: &Lab) -> Vec<Value> {
    lab.json(&["host", "list"]).as_array().unwrap().clone()
}

/// Names, or ids where there is none, of hosts with an open order.
pub fn ordered(lab: &Lab) -> Vec<String> {
    let open = hosts(lab).into_iter().filter(|host| !host["order"].is_null());
    let mut names: Vec<_> =
        open.map(|host| host["name"].as_str().or(host["id"].as_str()).unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Records and histories of all hosts: equal when nothing at all happened to any.
pub fn everything(lab: &Lab) -> Vec<(Value, Value)> {
    let history = |host: &Value| lab.json(&["host", "history", host["id"].as_str().unwrap()]);
    hosts(lab).into_iter().map(|host| (host.clone(), history(&host))).collect()
}

#[track_caller]
pub fn nothing_is_asked_or_ordered(lab: &Lab) {
    for host in hosts(lab) {
        assert!(host["order"].is_null() && host["asks"] == json!([]) && host["generation"] == 0, "{host}");
    }
}

/// An apply makes the hosts ours and wishes an image for them, and opens no order; the same documents again are no
/// change at all.
#[test]
fn apply_opens_no_order_and_a_second_one_changes_nothing() {
    let (lab, documents) = with_fleet();
    assert_eq!(hosts(&lab).len(), 12);
    for host in hosts(&lab) {
        assert_eq!((&host["state"], &host["desired"]), (&"enrolled".into(), &IMAGE.into()), "{host}");
    }
    nothing_is_asked_or_ordered(&lab);
    let before = everything(&lab);
    let again = lab.regild(&["apply", "-f", &documents]);
    assert!(again.contains("0 changes applied"), "{again}");
    assert_eq!(everything(&lab), before, "a second apply of the same documents changed something");
    // Nor does a restart, after which the fleet is read from the store.
    let mut lab = lab;
    lab.kill();
    lab.start();
    assert_eq!(everything(&lab), before);
    assert!(lab.regild(&["diff", "-f", &documents]).contains("no change"));
}

/// All or nothing: a document in which one line is wrong changes nothing, and one that loosens a brake must say so.
#[test]
fn apply_is_all_or_nothing_and_loosens_no_brake_by_accident() {
    let (lab, _) = with_fleet();
    let (before, exported) = (everything(&lab), lab.regild(&["export"]));
    let table = [
        ("[[host]]\nname = \"n1\"\nlabels = {}\n[[host]]\nname = \"nobody\"\ngroup = \"web\"\n", "nobody"),
        ("[[host]]\nname = \"n1\"\ngroup = \"db\"\n[[host]]\nname = \"n2\"\ngroup = \"nowhere\"\n", "nowhere"),
        ("[[host]]\nname = \"n1\"\ngroup = \"db\"\nimage = \"tiny:none\"\n", "tiny:none"),
        ("[policy]\nexpect_above = 0\n", "from 1 to"),
        ("[policy]\nexpected_above = 9\n", "expected_above"),
        ("[policy]\nexpect_above = 4\n", "--loosen"),
        ("[[host]]\nname = \"n3\"\nlabels = { rack = \"r1\" }\n", "--loosen"),
    ];
    for (text, word) in table {
        let document = lab.document("wrong.toml", text);
        let said = fails(&lab, &["apply", "-f", &document]);
        assert!(said.contains(word), "{text}: {said} does not tell {word}");
        assert_eq!(lab.regild(&["export"]), exported, "{text}");
    }
    assert_eq!(everything(&lab), before);
}

/// A script can read what would change, and which of it makes a brake hold less; nothing changes by looking.
#[test]
fn diff_tells_a_script_what_would_change() {
    let (lab, documents) = with_fleet();
    let before = (everything(&lab), lab.regild(&["export"]));
    assert_eq!(lab.json(&["diff", "-f", &documents]), json!({ "changes": [], "refusals": [] }));
    let text = "[policy]\nexpect_above = 9\n[policy.fleet]\nconcurrent_max = 12\n[policy.rack]\nconcurrent_max = 4\n\
                [[host]]\nname = \"n2\"\ngroup = \"db\"\n[[host]]\nmac = \"52:54:00:12:00:63\"\n";
    let seen = lab.json(&["diff", "-f", &lab.document("next.toml", text)]);
    let change = |verb: &str, kind: &str, id: &str| {
        let changes = seen["changes"].as_array().unwrap().iter();
        let mut found = changes.filter(|change| (&change["kind"], &change["id"]) == (&kind.into(), &id.into()));
        let change = found.next().unwrap_or_else(|| panic!("no {kind} {id} in {seen}"));
        assert_eq!(change["verb"], verb, "{seen}");
        change["fields"].clone()
    };
    let policy = change("changed", "policy", "policy");
    assert_eq!(policy, json!([{ "field": "expect_above", "old": 3, "new": 9, "loosens": true }]));
    let moved = change("changed", "host", "h-525400120002");
    assert_eq!(moved, json!([{ "field": "group", "old": "web", "new": "db" }]));
    change("added", "host", "h-525400120063");
    assert_eq!(seen["changes"].as_array().unwrap().len(), 3, "{seen}");
    let unknown = lab.document("unknown.toml", "[[host]]\nname = \"nobody\"\n");
    let output = lab.try_regild(&["diff", "-f", &unknown, "-o", "json"]);
    refused(&output);
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(seen["refusals"][0].as_str().unwrap().contains("nobody"), "{seen}");
    assert_eq!((everything(&lab), lab.regild(&["export"])), before, "a diff changed something");
}

/// What is exported is the fleet, in each form: applied again it changes nothing, and on an empty server it makes the
/// same fleet.
#[test]
fn what_is_exported_can_be_applied_and_changes_nothing() {
    let (lab, _) = with_fleet();
    let other = Lab::new();
    other.import_image();
    for form in ["toml", "yaml"] {
        let text = lab.regild(&["export", "--form", form]);
        let document = lab.document(&format!("exported.{form}"), &text);
        assert_eq!(lab.json(&["diff", "-f", &document]), json!({ "changes": [], "refusals": [] }), "{text}");
        assert!(lab.regild(&["apply", "-f", &document]).contains("0 changes applied"));
        assert!(text.contains("10.77.0.20") && text.contains("r2"), "{text}");
        other.regild(&["apply", "-f", &document]);
        assert_eq!(other.regild(&["export", "--form", form]), text);
    }
}

/// A channel is a pointer: to move it orders nothing, neither for who runs the old version nor for who should.
#[test]
fn a_channel_that_is_set_orders_nothing() {
    let (lab, _) = with_fleet();
    lab.apply("[group.web]\nchannel = \"tiny@stable\"\n[group.web.limits]\nconcurrent_max = 11\n", &[]);
    let file = lab.path("image.raw");
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", "tiny:v2"]);
    let before = everything(&lab);
    for version in ["v1", "v2", "v1"] {
        lab.regild(&["image", "channel", "set", "tiny@stable", version, "--reason", "x"]);
        let channels = lab.json(&["image", "channel", "list"]);
        assert_eq!(channels[0]["image"], format!("tiny:{version}"), "{channels}");
    }
    assert_eq!(everything(&lab), before, "a channel moved a host");
    nothing_is_asked_or_ordered(&lab);
}

/// What Ansible asks for: every host of ours under `_meta`, in the groups that it is in; nobody else's.
#[test]
fn the_inventory_is_one_for_ansible() {
    let (lab, _) = with_fleet();
    let stranger = Machine::plug_in(&lab, 1);
    stranger.script(&lab);
    let inventory: Value = serde_json::from_str(&lab.regild(&["inventory", "--ansible"])).unwrap();
    let variables = inventory["_meta"]["hostvars"].as_object().unwrap();
    assert_eq!(variables.len(), 12, "{inventory}");
    assert!(!inventory.to_string().contains(&stranger.mac), "a machine that nobody approved: {inventory}");
    assert_eq!(variables["n1"]["ansible_host"], "10.77.0.20");
    assert_eq!((&variables["n2"]["regild_mac"], &variables["n2"]["regild_group"]), (&mac_of(2).into(), &"web".into()));
    let members = |group: &str| inventory[group]["hosts"].as_array().unwrap_or_else(|| panic!("{inventory}")).len();
    assert_eq!((members("web"), members("rack_r1"), members("rack_r2")), (12, 6, 6));
}
