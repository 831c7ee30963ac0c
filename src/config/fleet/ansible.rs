//! The fleet as an Ansible inventory: what `ansible-inventory --list` calls the JSON of a dynamic inventory script
//! (docs.ansible.com, "Developing dynamic inventory"): a group is `{"hosts": [...]}`, and all variables of all hosts
//! stand under `_meta.hostvars`, so that Ansible asks only once.
//!
//! Ansible group names are letters, digits and `_`. A regild group keeps its name as far as that allows, a label
//! becomes `KEY_VALUE` (`rack_r12`). Two that would end up as one name are kept apart by a piece of digest: merged, a
//! playbook for one would run on the hosts of the other. Values are words, addresses and image names; none of them can
//! hold `{{`, which Ansible would evaluate.

use crate::decide::labels::Labels;
use crate::decide::mac::Mac;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Names that mean something to Ansible itself.
const RESERVED: [&str; 4] = ["all", "ungrouped", "localhost", "_meta"];

/// What the inventory says of one host.
#[derive(Debug, Clone, Default)]
pub struct InventoryHost {
    pub id: String,
    pub name: Option<String>,
    pub macs: Vec<Mac>,
    /// Its reservation, or else the lease it holds.
    pub address: Option<Ipv4Addr>,
    pub group: String,
    pub labels: Labels,
    /// The word of its state.
    pub state: String,
    /// `NAME:VERSION` that it runs, and that it should run.
    pub reported: Option<String>,
    pub desired: Option<String>,
}

impl InventoryHost {
    /// What Ansible calls it: its name, or its id where it has none or one that Ansible takes for something else.
    fn called(&self) -> &str {
        self.name.as_deref().filter(|name| !RESERVED.contains(name)).unwrap_or(&self.id)
    }

    fn variables(&self) -> Value {
        let mut found = Map::new();
        if let Some(address) = self.address {
            found.insert("ansible_host".to_string(), json!(address.to_string()));
        }
        let macs: Vec<String> = self.macs.iter().map(ToString::to_string).collect();
        let labels: BTreeMap<&str, &str> = self.labels.iter().collect();
        for (key, value) in [
            ("regild_id", json!(self.id)),
            ("regild_mac", json!(macs.first())),
            ("regild_macs", json!(macs)),
            ("regild_group", json!(self.group)),
            ("regild_labels", json!(labels)),
            ("regild_state", json!(self.state)),
            ("regild_image", json!(self.reported)),
            ("regild_desired", json!(self.desired)),
        ] {
            found.insert(key.to_string(), value);
        }
        Value::Object(found)
    }

    /// What makes it a member of groups.
    fn memberships(&self) -> impl Iterator<Item = Source> {
        let label = |(key, value): (&str, &str)| Source::Label(key.to_string(), value.to_string());
        std::iter::once(Source::Group(self.group.clone())).chain(self.labels.iter().map(label))
    }
}

/// Where an Ansible group comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Group(String),
    Label(String, String),
}

impl Source {
    /// The name it would like.
    fn wish(&self) -> String {
        match self {
            Source::Group(name) => plain(name),
            Source::Label(key, value) => plain(&format!("{key}_{value}")),
        }
    }

    /// The name it gets when another one likes the same.
    fn apart(&self) -> String {
        let text = match self {
            Source::Group(name) => format!("group={name}"),
            Source::Label(key, value) => format!("label {key}={value}"),
        };
        format!("{}_{}", self.wish(), &blake3::hash(text.as_bytes()).to_hex()[..6])
    }

    fn is_kept_as_it_is(&self) -> bool {
        matches!(self, Source::Group(name) if self.wish() == *name)
    }
}

fn plain(text: &str) -> String {
    let word: String = text.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
    if word.starts_with(|first: char| first.is_ascii_digit()) { format!("_{word}") } else { word }
}

/// The whole inventory.
#[must_use]
pub fn inventory(hosts: &[InventoryHost]) -> Value {
    let mut members: BTreeMap<Source, Vec<&str>> = BTreeMap::new();
    for host in hosts {
        for source in host.memberships() {
            members.entry(source).or_default().push(host.called());
        }
    }
    let names = names(&members, hosts);
    let mut found = Map::new();
    for (source, mut hosts) in members {
        hosts.sort_unstable();
        found.insert(names[&source].clone(), json!({ "hosts": hosts }));
    }
    let children: Vec<&String> = found.keys().collect();
    let all = json!({ "children": children });
    let variables: Map<String, Value> =
        hosts.iter().map(|host| (host.called().to_string(), host.variables())).collect();
    found.insert("all".to_string(), all);
    found.insert("_meta".to_string(), json!({ "hostvars": variables }));
    Value::Object(found)
}

fn names(members: &BTreeMap<Source, Vec<&str>>, hosts: &[InventoryHost]) -> BTreeMap<Source, String> {
    let mut wishes: BTreeMap<String, Vec<&Source>> = BTreeMap::new();
    for source in members.keys() {
        wishes.entry(source.wish()).or_default().push(source);
    }
    let hosts: BTreeSet<&str> = hosts.iter().map(InventoryHost::called).collect();
    let mut names = BTreeMap::new();
    for (wish, sources) in wishes {
        // A host and a group of one name would both be meant by it.
        let is_free = !RESERVED.contains(&wish.as_str()) && !hosts.contains(wish.as_str());
        for source in &sources {
            let own = is_free && (sources.len() == 1 || source.is_kept_as_it_is());
            names.insert((*source).clone(), if own { wish.clone() } else { source.apart() });
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8, name: Option<&str>, group: &str, labels: &[(&str, &str)]) -> InventoryHost {
        let mut host = InventoryHost {
            id: format!("h-5254000000{number:02x}"),
            name: name.map(String::from),
            macs: vec![Mac([0x52, 0x54, 0, 0, 0, number])],
            address: Some(Ipv4Addr::new(10, 0, 0, number)),
            group: group.to_string(),
            state: "ready".to_string(),
            reported: Some("debian:12.4".to_string()),
            ..InventoryHost::default()
        };
        labels.iter().for_each(|(key, value)| host.labels.set(key, value).unwrap());
        host
    }

    #[test]
    fn groups_and_labels_become_groups_and_every_host_has_its_variables() {
        let hosts = [
            host(1, Some("web-1"), "web", &[("rack", "12")]),
            InventoryHost {
                address: None,
                reported: None,
                ..host(2, None, "default", &[("rack", "12"), ("row", "b-1")])
            },
        ];
        let expected = json!({
            "_meta": { "hostvars": {
                "web-1": {
                    "ansible_host": "10.0.0.1", "regild_id": "h-525400000001", "regild_mac": "52:54:00:00:00:01",
                    "regild_macs": ["52:54:00:00:00:01"], "regild_group": "web", "regild_labels": { "rack": "12" },
                    "regild_state": "ready", "regild_image": "debian:12.4", "regild_desired": null,
                },
                "h-525400000002": {
                    "regild_id": "h-525400000002", "regild_mac": "52:54:00:00:00:02",
                    "regild_macs": ["52:54:00:00:00:02"], "regild_group": "default",
                    "regild_labels": { "rack": "12", "row": "b-1" },
                    "regild_state": "ready", "regild_image": null, "regild_desired": null,
                },
            } },
            "all": { "children": ["default", "rack_12", "row_b_1", "web"] },
            "default": { "hosts": ["h-525400000002"] },
            "rack_12": { "hosts": ["h-525400000002", "web-1"] },
            "row_b_1": { "hosts": ["h-525400000002"] },
            "web": { "hosts": ["web-1"] },
        });
        assert_eq!(inventory(&hosts), expected);
    }

    /// A playbook for `rack_a_b` must not run on hosts that carry another label.
    #[test]
    fn names_that_would_become_one_are_kept_apart() {
        let hosts = [
            host(1, Some("one"), "rack_12", &[("rack", "12"), ("row", "a.b")]),
            host(2, Some("two"), "12", &[("row", "a-b"), ("x", "all")]),
            host(3, Some("all"), "all", &[("role", "db")]),
            host(4, Some("role_db"), "rack_12", &[]),
        ];
        let inventory = inventory(&hosts);
        let groups = inventory.as_object().unwrap();
        let of = |start: &str| {
            let named = |name: &&String| name.as_str() == start || name.starts_with(&format!("{start}_"));
            groups.keys().filter(named).map(|name| groups[name]["hosts"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(groups["rack_12"]["hosts"], json!(["one", "role_db"]), "a regild group keeps its name");
        assert_eq!(of("rack_12"), [json!(["one", "role_db"]), json!(["one"])]);
        assert_eq!(of("row_a_b").len(), 2);
        assert_eq!(of("_12"), [json!(["two"])]);
        assert_eq!(of("role_db"), [json!(["h-525400000003"])], "{inventory}");
        assert!(!groups.contains_key("role_db"));
        assert!(groups["all"].get("hosts").is_none() && of("all").len() == 2, "the group all is Ansible's own");
    }
    /// The real thing reads it: `ansible-inventory` runs a script that prints our JSON, and gives back what it
    /// understood. A group name that Ansible would change, or a host that it would lose, shows here.
    #[test]
    fn ansible_itself_reads_the_inventory_and_changes_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let hosts = [
            host(1, Some("web-1"), "web", &[("rack", "12"), ("row", "a.b")]),
            host(2, None, "12-b", &[("row", "a-b"), ("x", "all")]),
            host(3, Some("localhost"), "all", &[]),
        ];
        let ours = inventory(&hosts);
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("inventory.sh");
        std::fs::write(dir.path().join("inventory.json"), ours.to_string()).unwrap();
        std::fs::write(&script, "#!/bin/sh\ncat \"$(dirname \"$0\")/inventory.json\"\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = std::process::Command::new("ansible-inventory")
            .args(["--list", "-i"])
            .arg(&script)
            .env("ANSIBLE_LOCAL_TEMP", dir.path())
            .env("HOME", dir.path())
            .output()
            .expect("ansible-inventory is there: `make setup` installs ansible-core");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && !said.contains("WARNING"), "{said}");
        let theirs: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(theirs["_meta"]["hostvars"], ours["_meta"]["hostvars"]);
        let groups = |inventory: &Value| {
            let plain = |(name, _): &(&String, &Value)| !["_meta", "all", "ungrouped"].contains(&name.as_str());
            let table = inventory.as_object().unwrap().iter().filter(plain);
            table.map(|(name, group)| (name.clone(), group["hosts"].clone())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(groups(&theirs), groups(&ours));
    }
}
