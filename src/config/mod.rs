//! The configuration, checked: what [`file::File`] says, turned into types that cannot be wrong.

pub mod bandwidth;
pub mod file;
pub mod fleet;
pub mod upload;

use crate::decide::mac::Mac;
use crate::decide::version::Retention;
use crate::dhcp::{Network, check_networks};
use crate::image::signature::PublicKey;
use crate::scheduler::duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

pub use crate::decide::group::DEFAULT_GROUP;

/// Everything `serve` needs to know.
#[derive(Debug)]
pub struct Config {
    pub state_dir: PathBuf,
    pub boot_assets: PathBuf,
    pub socket: PathBuf,
    pub socket_group: Option<String>,
    pub http: file::Http,
    pub tftp: file::Tftp,
    pub deploy: file::Deploy,
    pub image: file::Image,
    pub upkeep: Upkeep,
    pub ipv6: file::Ipv6,
    pub networks: Vec<Network>,
    /// Names of hosts by MAC, from the reservations.
    pub names: BTreeMap<Mac, String>,
    /// MACs of this machine: never rebuilt (faults.md R2).
    pub own_macs: BTreeSet<Mac>,
}

/// How images are kept, checked.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// `None`: nothing is collected by itself.
    pub retention: Option<Retention>,
    pub collect_every_seconds: u64,
    /// `None`: never by itself.
    pub scrub_every_seconds: Option<u64>,
    /// 0: no limit.
    pub scrub_bytes_per_second: u64,
    pub trusted_keys: Vec<PublicKey>,
    pub trust_required: bool,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}: {key}: {message}", path.display())]
    Value { path: PathBuf, key: String, message: String },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key (and for syntax the line) and what would be right.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        Config::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Checks the text of a file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let syntax =
            |error: toml::de::Error| ConfigError::Syntax { path: path.to_path_buf(), message: error.to_string() };
        let file: file::File = toml::from_str(text).map_err(syntax)?;
        checked(file).map_err(|(key, message)| ConfigError::Value { path: path.to_path_buf(), key, message })
    }
}

type Wrong = (String, String);

fn checked(file: file::File) -> Result<Config, Wrong> {
    let mut reservations = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (at, line) in file.reservations.iter().enumerate() {
        let key = |field: &str| format!("reservation {} {field}", at + 1);
        let mac: Mac = line.mac.parse().map_err(|error| (key("mac"), format!("{error}")))?;
        if reservations.insert(mac, address(&key("address"), &line.address)?).is_some() {
            return Err((key("mac"), format!("{mac} is reserved twice")));
        }
        if let Some(name) = &line.name {
            host_name(name).map_err(|message| (key("name"), message))?;
            if names.values().any(|known| known == name) {
                return Err((key("name"), format!("{name:?} names two machines")));
            }
            names.insert(mac, name.clone());
        }
    }
    if file.networks.is_empty() {
        return Err((
            "network".to_string(),
            "no network to serve; add a [[network]] with interface and address".into(),
        ));
    }
    let networks: Vec<Network> =
        file.networks.iter().map(|network| checked_network(network, &reservations)).collect::<Result<_, _>>()?;
    check_networks(&networks).map_err(|error| ("network".to_string(), error.to_string()))?;
    if !(1..=100).contains(&file.deploy.attempts_max) {
        return Err(("deploy.attempts_max".into(), "must be 1 to 100: attempts are bounded".into()));
    }
    for word in &file.deploy.kernel_args {
        kernel_word(word).map_err(|message| ("deploy.kernel_args".to_string(), message))?;
    }
    check_requests(&file.http)?;
    file.http.upload.as_ref().map_or(Ok(()), upload::check)?;
    let upkeep = checked_upkeep(&file.image)?;
    let socket = file.socket.unwrap_or_else(|| file.state_dir.join("regild.sock"));
    Ok(Config {
        state_dir: file.state_dir,
        boot_assets: file.boot_assets,
        socket,
        socket_group: file.socket_group,
        http: file.http,
        tftp: file.tftp,
        deploy: file.deploy,
        image: file.image,
        upkeep,
        ipv6: file.ipv6,
        networks,
        names,
        own_macs: own_macs(),
    })
}

/// An agent has a connection for its reports and up to four for image data, and a new one before an old one is closed.
fn check_requests(http: &file::Http) -> Result<(), Wrong> {
    let (of_one, all) = (http.requests_of_one_max(), http.requests_max);
    let key = if http.requests_of_one_max.is_some() { "http.requests_of_one_max" } else { "http.requests_max" };
    let wrong = |message: String| Err((key.to_owned(), message));
    if of_one < 8 {
        return wrong(format!("{of_one} is too few: one agent has five connections; it must be at least 8"));
    }
    if of_one > all {
        return wrong(format!("{of_one} is more than http.requests_max, which is {all}: one address could take all"));
    }
    Ok(())
}

fn checked_upkeep(image: &file::Image) -> Result<Upkeep, Wrong> {
    let seconds = |key: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(duration::parse).transpose();
        parsed.map_err(|error| (format!("image.{key}"), error.to_string()))
    };
    let mut retention = None;
    let mut every = None;
    if let Some(file) = &image.retention {
        let (newest, younger) = (file.keep_newest, seconds("retention.keep_younger_than", &file.keep_younger_than)?);
        if newest.is_none_or(|newest| newest == 0) && younger.is_none() {
            let message = "keeps nothing: say keep_newest (1 or more), keep_younger_than, or both";
            return Err(("image.retention".to_string(), message.to_string()));
        }
        every = seconds("retention.every", &file.every)?;
        retention = Some(Retention { keep_newest: newest, keep_younger_than_seconds: younger });
    }
    let mut trusted_keys = Vec::new();
    for key in &image.trust.keys {
        let parsed = PublicKey::parse(key);
        trusted_keys.push(parsed.map_err(|error| ("image.trust.keys".to_string(), format!("{key:?}: {error}")))?);
    }
    if image.trust.required && trusted_keys.is_empty() {
        let message = "is true without any key in image.trust.keys: no image could ever be used";
        return Err(("image.trust.required".to_string(), message.to_string()));
    }
    Ok(Upkeep {
        retention,
        collect_every_seconds: every.unwrap_or(24 * 3600),
        scrub_every_seconds: seconds("scrub.every", &image.scrub.every)?,
        scrub_bytes_per_second: image.scrub.bytes_per_second,
        trusted_keys,
        trust_required: image.trust.required,
    })
}

/// Of every interface that this machine has now.
fn own_macs() -> BTreeSet<Mac> {
    let interfaces = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let address = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("address")).ok();
    let macs = interfaces.filter_map(address).filter_map(|text| text.trim().parse().ok());
    // A bridge takes the MAC of one of its ports: a tap's, say, which is no machine's. The loopback has none.
    macs.filter(|mac| *mac != Mac([0; 6])).collect()
}

fn checked_network(line: &file::Network, reservations: &BTreeMap<Mac, Ipv4Addr>) -> Result<Network, Wrong> {
    let key = |field: &str| format!("network {:?} {field}", line.interface);
    let form =
        || (key("address"), format!("{:?} is not an address with prefix length, like 10.77.0.1/24", line.address));
    let (ip, prefix) = line.address.split_once('/').ok_or_else(form)?;
    let server_ip = ip.parse().map_err(|_| form())?;
    let prefix_len: u8 = prefix.parse().map_err(|_| form())?;
    if !(1..=30).contains(&prefix_len) {
        return Err(form());
    }
    let mut pools = Vec::new();
    for pool in &line.pools {
        let form = || (key("pools"), format!("{pool:?} is not a range like 10.77.0.100-10.77.0.199"));
        let (first, last) = pool.split_once('-').ok_or_else(form)?;
        pools.push((address(&key("pools"), first.trim())?, address(&key("pools"), last.trim())?));
    }
    let mask = u32::MAX << (32 - u32::from(prefix_len));
    let here = |ip: &Ipv4Addr| u32::from(*ip) & mask == u32::from(server_ip) & mask;
    let network = Network {
        interface: line.interface.clone(),
        server_ip,
        prefix_len,
        router: line.router.as_deref().map(|text| address(&key("router"), text)).transpose()?,
        dns: line.dns.iter().map(|text| address(&key("dns"), text)).collect::<Result<_, _>>()?,
        lease_seconds: line.lease_seconds,
        pools,
        reservations: reservations.iter().filter(|(_, ip)| here(ip)).map(|(mac, ip)| (*mac, *ip)).collect(),
    };
    network.check().map_err(|error| (key("settings"), error.to_string()))?;
    Ok(network)
}

fn address(key: &str, text: &str) -> Result<Ipv4Addr, Wrong> {
    text.parse().map_err(|_| (key.to_string(), format!("{text:?} is not an IPv4 address")))
}

/// A host name: letters, digits, `-`, `.`; RFC 1123 section 2.1. Never a MAC or a host id, so that ID on the
/// command line means one thing.
///
/// # Errors
/// What is wrong with the name, for people.
pub fn host_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    let edges = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !plain || name.len() > 63 || !edges(name.bytes().next()) || !edges(name.bytes().last()) {
        return Err(format!("{name:?} is not a host name: 1 to 63 letters, digits, '-' or '.'"));
    }
    if name.starts_with("h-") {
        return Err(format!("{name:?} looks like a host id; choose a name that does not begin with h-"));
    }
    Ok(())
}

/// A word that may go into a boot script as it is: no space, newline, quote, `$`, `;`, `&` or `|`, since iPXE
/// expands and splits on them (faults.md R13, Ironic CVE-2026-46447).
fn kernel_word(word: &str) -> Result<(), String> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"=,.:_-/+@".contains(&byte);
    if word.is_empty() || word.len() > 200 || !word.bytes().all(safe) {
        return Err(format!("{word:?} may not go on a kernel command line: letters, digits and =,.:_-/+@ only"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        state_dir = "/var/lib/regild"
        boot_assets = "/usr/share/regild"
        [[network]]
        interface = "br0"
        address = "10.77.0.1/24"
        pools = ["10.77.0.100-10.77.0.199"]
        [[reservation]]
        mac = "52:54:00:00:00:01"
        address = "10.77.0.10"
        name = "web-1"
    "#;

    fn wrong(change: impl Fn(&str) -> String) -> String {
        Config::parse(&change(GOOD), Path::new("r.toml")).expect_err("it was taken").to_string()
    }

    #[test]
    fn a_good_file_is_taken_with_careful_defaults() {
        let config = Config::parse(GOOD, Path::new("r.toml")).unwrap();
        assert_eq!(config.deploy.attempts_max, 3);
        assert_eq!(config.socket, Path::new("/var/lib/regild/regild.sock"));
        assert_eq!(config.networks[0].reservations.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        assert!(wrong(|text| text.replace("state_dir", "state_dri")).contains("state_dri"));
        assert!(wrong(|text| text.replace("10.77.0.1/24", "10.77.0.1")).contains("network \"br0\" address"));
        assert!(wrong(|text| text.replace("00:01", "0001")).contains("reservation 1 mac"));
        assert!(wrong(|text| text.replace("web-1", "web 1")).contains("reservation 1 name"));
        assert!(wrong(|text| text.replace("web-1", "h-525400000001")).contains("host id"));
        assert!(wrong(|text| text.replace("10.77.0.100-", "10.78.0.100-")).contains("network \"br0\""));
        let http = |line: &str| wrong(|text| text.replace("[[network]]", &format!("[http]\n{line}\n[[network]]")));
        assert!(http("requests_of_one_max = 7").contains("http.requests_of_one_max: 7 is too few"));
        let both = "requests_max = 100\nrequests_of_one_max = 256";
        assert!(http(both).contains("256 is more than http.requests_max, which is 100"));
        assert!(http("requests_max = 7").contains("http.requests_max: 7 is too few"));
        assert!(wrong(|text| text.split("[[network]]").next().unwrap().to_string()).contains("[[network]]"));
    }

    /// Promise: who names one limit of a machine with little memory need not know the other.
    #[test]
    fn connections_of_one_address_are_no_more_than_of_all() {
        let of_one = |lines: &str| {
            let text = GOOD.replace("[[network]]", &format!("[http]\n{lines}\n[[network]]"));
            Config::parse(&text, Path::new("r.toml")).unwrap().http.requests_of_one_max()
        };
        let all = [of_one("port = 80"), of_one("requests_max = 100"), of_one("requests_max = 5000")];
        assert_eq!(all, [256, 100, 256]);
        assert_eq!(of_one("requests_max = 100\nrequests_of_one_max = 9"), 9);
    }

    #[test]
    fn images_are_kept_as_the_file_says_and_by_default_for_ever() {
        let config = Config::parse(GOOD, Path::new("r.toml")).unwrap();
        assert!(config.upkeep.retention.is_none() && config.upkeep.scrub_every_seconds.is_none());
        assert!(!config.upkeep.trust_required && config.upkeep.scrub_bytes_per_second > 0);
        let with = |more: &str| Config::parse(&format!("{GOOD}\n{more}"), Path::new("r.toml"));
        let kept = "[image.retention]\nkeep_newest = 3\nkeep_younger_than = \"30d\"\n[image.scrub]\nevery = \"30d\"";
        let upkeep = with(kept).unwrap().upkeep;
        let month = 30 * 86_400;
        let retention = Retention { keep_newest: Some(3), keep_younger_than_seconds: Some(month) };
        assert_eq!((upkeep.retention, upkeep.scrub_every_seconds), (Some(retention), Some(month)));
        for (more, says) in [
            ("[image.retention]", "keeps nothing"),
            ("[image.retention]\nkeep_newest = 0", "keeps nothing"),
            ("[image.retention]\nkeep_younger_than = \"30\"", "with units"),
            ("[image.scrub]\nevery = \"often\"", "image.scrub.every"),
            ("[image.trust]\nrequired = true", "without any key"),
            ("[image.trust]\nkeys = [\"RW\"]", "regild image keygen"),
        ] {
            let error = with(more).expect_err(more).to_string();
            assert!(error.contains(says), "{more}: {error}");
        }
    }

    #[test]
    fn nothing_that_ipxe_would_expand_goes_on_the_kernel_command_line() {
        for word in ["a b", "a\\nb", "${net0/mac}", "a;reboot", "a&&b", "'a'", ""] {
            let said = wrong(|text| format!("{text}\n[deploy]\nkernel_args = [\"{word}\"]"));
            assert!(said.contains("kernel command line"), "{word:?}: {said}");
        }
    }
}
