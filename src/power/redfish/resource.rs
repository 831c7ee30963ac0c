//! The few properties that are read of a controller's resources, and what follows from them. Pure.

use serde::{Deserialize, Deserializer};

use crate::power::{Action, Override, PowerState};

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    #[serde(rename = "@odata.id")]
    pub path: String,
}

/// The service root.
#[derive(Debug, Deserialize)]
pub(super) struct Root {
    #[serde(rename = "Systems")]
    pub systems: Link,
}

#[derive(Debug, Deserialize)]
pub(super) struct Collection {
    #[serde(rename = "Members", deserialize_with = "or_default")]
    pub members: Vec<Link>,
}

/// A ComputerSystem. Controllers leave out or set to null what they do not know.
#[derive(Debug, Default, Deserialize)]
pub(super) struct System {
    #[serde(rename = "PowerState")]
    power_state: Option<String>,
    #[serde(rename = "Boot", default, deserialize_with = "or_default")]
    pub boot: Boot,
    #[serde(rename = "Actions", default, deserialize_with = "or_default")]
    pub actions: Actions,
    #[serde(rename = "@Redfish.Settings")]
    settings: Option<SettingsLink>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Boot {
    #[serde(rename = "BootSourceOverrideTarget")]
    target: Option<String>,
    #[serde(rename = "BootSourceOverrideEnabled")]
    enabled: Option<String>,
    #[serde(rename = "BootSourceOverrideMode")]
    pub mode: Option<String>,
    #[serde(rename = "BootSourceOverrideTarget@Redfish.AllowableValues")]
    pub targets: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Actions {
    #[serde(rename = "#ComputerSystem.Reset")]
    pub reset: Option<Reset>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reset {
    pub target: String,
    #[serde(rename = "ResetType@Redfish.AllowableValues")]
    pub allowable: Option<Vec<String>>,
    #[serde(rename = "@Redfish.ActionInfo")]
    pub info: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SettingsLink {
    #[serde(rename = "SettingsObject")]
    object: Option<Link>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ActionInfo {
    #[serde(rename = "Parameters", default, deserialize_with = "or_default")]
    parameters: Vec<Parameter>,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    #[serde(rename = "Name")]
    name: Option<String>,
    #[serde(rename = "AllowableValues")]
    allowable: Option<Vec<String>>,
}

/// `null` is as good as absent.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl System {
    pub fn power_state(&self) -> PowerState {
        match self.power_state.as_deref() {
            Some("On") => PowerState::On,
            Some("Off") => PowerState::Off,
            // PoweringOn, PoweringOff, Paused, null.
            _ => PowerState::Unknown,
        }
    }

    /// Where settings of the next boot are written, for controllers that keep them apart.
    pub fn settings_path(&self) -> Option<&str> {
        self.settings.as_ref()?.object.as_ref().map(|link| link.path.as_str())
    }
}

impl Boot {
    pub fn shown_override(&self, wanted: &str) -> Override {
        let word = |value: &Option<String>| crate::power::error::printable(value.as_deref().unwrap_or("nothing"));
        match (self.target.as_deref(), self.enabled.as_deref()) {
            (None, None) => Override::Unreadable { why: "the system shows no boot override".into() },
            (Some(target), Some("Once")) if target == wanted => Override::Checked,
            (Some(target), Some("Continuous")) if target == wanted => Override::Continuous,
            _ => Override::NotShown { shown: format!("{}, {}", word(&self.target), word(&self.enabled)) },
        }
    }
}

impl ActionInfo {
    pub fn reset_types(self) -> Vec<String> {
        let named = |parameter: &Parameter| parameter.name.as_deref() == Some("ResetType");
        self.parameters.into_iter().find(named).and_then(|parameter| parameter.allowable).unwrap_or_default()
    }
}

/// The system that is meant: by path, or by id (the path's last part), or as the only one.
pub(super) fn choose_system<'p>(wanted: Option<&str>, paths: &[&'p str]) -> Option<&'p str> {
    let bare = |path: &'p str| path.trim_end_matches('/');
    match (wanted, paths) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(wanted), _) => {
            let wanted = wanted.trim_end_matches('/');
            paths.iter().copied().find(|path| bare(path) == wanted || bare(path).rsplit('/').next() == Some(wanted))
        }
    }
}

/// The entity tag to send with a change. RFC 9110 compares `If-Match` strongly, so a weak tag never matches by the
/// book; some controllers nevertheless want it whole, others without its `W/`.
pub(super) fn if_match(etag: &str, try_number: u32) -> &str {
    match etag.strip_prefix("W/") {
        Some(strong) if try_number > 1 => strong,
        _ => etag,
    }
}

/// The reset types that are used, of those that Redfish knows. Graceful ones ask the operating system, which is free
/// not to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetType {
    On,
    ForceOn,
    ForceOff,
    ForceRestart,
    PowerCycle,
    GracefulShutdown,
}

impl ResetType {
    pub fn name(self) -> &'static str {
        match self {
            ResetType::On => "On",
            ResetType::ForceOn => "ForceOn",
            ResetType::ForceOff => "ForceOff",
            ResetType::ForceRestart => "ForceRestart",
            ResetType::PowerCycle => "PowerCycle",
            ResetType::GracefulShutdown => "GracefulShutdown",
        }
    }

    pub fn leads_to(self) -> PowerState {
        match self {
            ResetType::ForceOff | ResetType::GracefulShutdown => PowerState::Off,
            _ => PowerState::On,
        }
    }

    /// Whether the state tells afterwards that it was carried out.
    pub fn shows_in_the_state(self) -> bool {
        !matches!(self, ResetType::ForceRestart | ResetType::PowerCycle)
    }
}

/// What to ask for, one after the other; the first way that the controller offers all of. `None` when it offers none. A
/// controller that does not say what it offers is asked for what every one has to have.
pub(super) fn reset_plan(action: Action, state: PowerState, offered: &[String]) -> Option<&'static [ResetType]> {
    use ResetType::{ForceOff, ForceOn, ForceRestart, GracefulShutdown, On, PowerCycle};
    let ways: &[&'static [ResetType]] = match (action, state) {
        (Action::Status, _) | (Action::PowerOff, PowerState::Off) => &[&[]],
        (Action::PowerOff, _) => &[&[ForceOff], &[GracefulShutdown]],
        (Action::BootToNetwork, PowerState::Off) => &[&[On], &[ForceOn]],
        (Action::BootToNetwork, _) => &[&[ForceRestart], &[PowerCycle], &[ForceOff, On], &[ForceOff, ForceOn]],
    };
    let has = |wanted: &ResetType| offered.is_empty() || offered.iter().any(|name| name == wanted.name());
    ways.iter().copied().find(|way| way.iter().all(has))
}

#[cfg(test)]
mod tests {
    use super::ResetType::{ForceOff, ForceOn, ForceRestart, GracefulShutdown, On, PowerCycle};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reset_follows_from_the_state_and_what_is_offered() {
        use Action::{BootToNetwork, PowerOff, Status};
        use PowerState::{Off, On as IsOn, Unknown};
        let all = "On ForceOff GracefulShutdown GracefulRestart ForceRestart Nmi ForceOn PowerCycle PushPowerButton";
        let table: &[(Action, PowerState, &str, Option<&[ResetType]>)] = &[
            (BootToNetwork, IsOn, all, Some(&[ForceRestart])),
            (BootToNetwork, IsOn, "", Some(&[ForceRestart])),
            (BootToNetwork, IsOn, "On ForceOff PowerCycle", Some(&[PowerCycle])),
            (BootToNetwork, IsOn, "On ForceOff", Some(&[ForceOff, On])),
            (BootToNetwork, IsOn, "ForceOn ForceOff", Some(&[ForceOff, ForceOn])),
            (BootToNetwork, IsOn, "On GracefulRestart", None),
            (BootToNetwork, Unknown, all, Some(&[ForceRestart])),
            (BootToNetwork, Off, all, Some(&[On])),
            (BootToNetwork, Off, "", Some(&[On])),
            (BootToNetwork, Off, "ForceOn ForceRestart", Some(&[ForceOn])),
            (BootToNetwork, Off, "ForceRestart", None),
            (PowerOff, IsOn, all, Some(&[ForceOff])),
            (PowerOff, IsOn, "GracefulShutdown On", Some(&[GracefulShutdown])),
            (PowerOff, IsOn, "On", None),
            (PowerOff, Off, "On", Some(&[])),
            (Status, IsOn, "", Some(&[])),
        ];
        for (action, state, offered, plan) in table {
            let offered: Vec<String> = offered.split_whitespace().map(str::to_string).collect();
            assert_eq!(reset_plan(*action, *state, &offered), *plan, "{action} {state} {offered:?}");
        }
    }

    #[test]
    fn a_system_is_meant_by_path_by_id_or_as_the_only_one() {
        let one = ["/redfish/v1/Systems/System.Embedded.1"];
        let two = ["/redfish/v1/Systems/node1", "/redfish/v1/Systems/node2/"];
        assert_eq!(choose_system(None, &one), Some(one[0]));
        assert_eq!(choose_system(None, &two), None);
        assert_eq!(choose_system(None, &[]), None);
        assert_eq!(choose_system(Some("node2"), &two), Some(two[1]));
        assert_eq!(choose_system(Some("/redfish/v1/Systems/node2"), &two), Some(two[1]));
        assert_eq!(choose_system(Some("node"), &two), None);
        assert_eq!(choose_system(Some("node3"), &one), None, "another system was taken for it");
    }

    #[test]
    fn what_a_controller_leaves_out_or_sets_to_null_is_no_error() {
        for value in [json!({}), json!({"PowerState": null, "Boot": null, "Actions": null, "@Redfish.Settings": null})]
        {
            let system: System = serde_json::from_value(value).unwrap();
            assert_eq!(system.power_state(), PowerState::Unknown);
            assert!(matches!(system.boot.shown_override("Pxe"), Override::Unreadable { .. }));
            assert_eq!(system.settings_path(), None);
        }
        let shown = |target: &str, enabled: &str| {
            let boot = json!({"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled});
            serde_json::from_value::<Boot>(boot).unwrap().shown_override("Pxe")
        };
        assert_eq!(shown("Pxe", "Once"), Override::Checked);
        assert_eq!(shown("Pxe", "Continuous"), Override::Continuous);
        assert_eq!(shown("Pxe", "Disabled"), Override::NotShown { shown: "Pxe, Disabled".into() });
        assert_eq!(shown("Hdd", "Once"), Override::NotShown { shown: "Hdd, Once".into() });
        let info = json!({"Parameters": [{"Name": "X"}, {"Name": "ResetType", "AllowableValues": ["On"]}]});
        assert_eq!(serde_json::from_value::<ActionInfo>(info).unwrap().reset_types(), ["On"]);
    }

    #[test]
    fn a_weak_tag_is_tried_whole_and_then_without_its_mark() {
        assert_eq!(if_match("W/\"1\"", 1), "W/\"1\"");
        assert_eq!(if_match("W/\"1\"", 2), "\"1\"");
        assert_eq!(if_match("\"1\"", 2), "\"1\"");
    }
}
