//! Reading documents: which files there are, what form each has, and all of them as one fleet.

use super::file::Document;
use super::{Fleet, HostKey, check, drift};
use crate::decide::drift::declared::POLICIES_MAX;
use serde_saphyr::MessageFormatter;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// 100,000 hosts with labels are about 15 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;
const FILES_MAX: usize = 1_000;
const HOSTS_MAX: usize = 200_000;
/// Deeper than any document needs; bounds the YAML reader's recursion.
const DEPTH_MAX: usize = 16;

/// Why documents cannot be used. Nothing of them is used then.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no *.toml, *.yaml or *.yml", path.display())]
    Nothing { path: PathBuf },
    #[error("{} is neither a file nor a directory of files; name it by itself with -f, or move it away", path.display())]
    NoFile { path: PathBuf },
    #[error("{} ends neither in .toml nor in .yaml or .yml", path.display())]
    Form { path: PathBuf },
    #[error("{} is too large: a document has at most {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("more than {most} {what}; that is not one fleet")]
    TooMany { what: &'static str, most: usize },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: u64, message: String },
    #[error("{}: {what}: {key}: {message}", path.display())]
    Value { path: PathBuf, what: String, key: String, message: String },
    #[error("{what} is in {} and in {}; keep one of them", first.display(), second.display())]
    Twice { what: String, first: PathBuf, second: PathBuf },
}

/// One document with the name that messages give it.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// Reads files and directories of files (`-f fleet/`).
///
/// # Errors
/// [`FleetError`], for the first thing that is wrong.
pub fn load(paths: &[PathBuf]) -> Result<Fleet, FleetError> {
    parse(&sources(paths)?)
}

fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, FleetError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { files.extend(files_in(path)?) } else { files.push(path.clone()) }
    }
    if files.len() > FILES_MAX {
        return Err(FleetError::TooMany { what: "files", most: FILES_MAX });
    }
    files.into_iter().map(|path| Ok(Source { text: text_of(&path)?, path })).collect()
}

/// The documents of one directory, sorted by name. Hidden entries and other files (a README) are passed over; a
/// directory in it is not, since with `--prune` what lies unseen in there would be taken for removed.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, FleetError> {
    let read = |source| FleetError::Read { path: dir.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            return Err(FleetError::NoFile { path });
        }
        if form(&path).is_some() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(FleetError::Nothing { path: dir.to_path_buf() });
    }
    files.sort();
    Ok(files)
}

pub(super) fn text_of(path: &Path) -> Result<String, FleetError> {
    let read = |source| FleetError::Read { path: path.to_path_buf(), source };
    // A FIFO or a device could keep us waiting for ever.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(FleetError::NoFile { path: path.to_path_buf() });
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(read)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FleetError::TooLarge { path: path.to_path_buf() });
    }
    Ok(text)
}

enum Form {
    Toml,
    Yaml,
}

fn form(path: &Path) -> Option<Form> {
    match path.extension()?.to_str()? {
        "toml" => Some(Form::Toml),
        "yaml" | "yml" => Some(Form::Yaml),
        _ => None,
    }
}

/// All documents as one fleet. Pure: the paths are only for their endings and for messages.
///
/// # Errors
/// [`FleetError`], for the first thing that is wrong.
pub fn parse(sources: &[Source]) -> Result<Fleet, FleetError> {
    let mut gathered = Gathered::default();
    for source in sources {
        gathered.add(&source.path, document(source)?)?;
    }
    Ok(gathered.fleet)
}

/// One document that came by another way than a file (the API, a CSV file), checked as files are.
///
/// # Errors
/// [`FleetError`], for the first thing that is wrong.
pub fn of_document(name: &Path, document: Document) -> Result<Fleet, FleetError> {
    let mut gathered = Gathered::default();
    gathered.add(name, document)?;
    Ok(gathered.fleet)
}

fn document(source: &Source) -> Result<Document, FleetError> {
    let syntax = |line, message| FleetError::Syntax { path: source.path.clone(), line, message };
    // An editor's byte order mark is no content.
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    match form(&source.path) {
        Some(Form::Toml) => toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or("");
            syntax(1 + before.matches('\n').count() as u64, one_line(error.message()))
        }),
        Some(Form::Yaml) => serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let words = serde_saphyr::UserMessageFormatter;
            syntax(line, one_line(&words.format_message(error.without_snippet())))
        }),
        None => Err(FleetError::Form { path: source.path.clone() }),
    }
}

/// Room for the largest fleet, and none for what a document of ours never needs. A plain `yes` or `012` where
/// anything may stand (power settings) is text: a YAML 1.2 reader and a person see the same.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 40_000_000,
            max_nodes: 20_000_000,
            max_depth: DEPTH_MAX,
        },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

/// Messages quote outside text: on one line, and without what a terminal would obey.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

#[derive(Default)]
struct Gathered {
    fleet: Fleet,
    /// Which file said it first: a group, a drift policy, a host, a host name, a reservation, an address, the policy.
    said: BTreeMap<Said, PathBuf>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Policy,
    Group(String),
    Drift(String),
    Host(HostKey),
    HostName(String),
    Reservation(crate::decide::mac::Mac),
    Address(Ipv4Addr),
}

impl Gathered {
    fn add(&mut self, path: &Path, document: Document) -> Result<(), FleetError> {
        let value = |what: &str, (key, message): check::Wrong| FleetError::Value {
            path: path.to_path_buf(),
            what: what.to_string(),
            key,
            message,
        };
        if let Some(policy) = document.policy {
            self.once(path, Said::Policy, "policy")?;
            self.fleet.policy = Some(check::policy(policy).map_err(|wrong| value("policy", wrong))?);
        }
        for (name, group) in document.groups {
            let name = name.0.0;
            let what = format!("group {name}");
            self.once(path, Said::Group(name.clone()), &what)?;
            let group = check::group(&name, group).map_err(|wrong| value(&what, wrong))?;
            self.fleet.groups.insert(name, group);
        }
        for (name, written) in document.drift {
            let name = name.0.0;
            let what = format!("drift {name}");
            self.once(path, Said::Drift(name.clone()), &what)?;
            let policy = drift::check(&name, written).map_err(|wrong| value(&what, wrong))?;
            self.fleet.drift.insert(name, policy);
            if self.fleet.drift.len() > POLICIES_MAX {
                return Err(FleetError::TooMany { what: "drift policies", most: POLICIES_MAX });
            }
        }
        for (at, host) in document.hosts.into_iter().enumerate() {
            let (key, entry) = check::host(host).map_err(|wrong| value(&format!("host {}", at + 1), wrong))?;
            self.once(path, Said::Host(key.clone()), &format!("host {key}"))?;
            if let Some(name) = &entry.name {
                self.once(path, Said::HostName(name.clone()), &format!("host {name}"))?;
            }
            self.fleet.hosts.insert(key, entry);
            if self.fleet.hosts.len() > HOSTS_MAX {
                return Err(FleetError::TooMany { what: "hosts", most: HOSTS_MAX });
            }
        }
        for (at, reservation) in document.reservations.into_iter().enumerate() {
            let (mac, address) = (reservation.mac.0.0, reservation.address.0);
            if !is_usable(address) {
                let message = format!("{address} is the address of no single machine");
                return Err(value(&format!("reservation {}", at + 1), ("address".to_string(), message)));
            }
            self.once(path, Said::Reservation(mac), &format!("a reservation for {mac}"))?;
            self.once(path, Said::Address(address), &format!("a reservation of {address}"))?;
            self.fleet.reservations.insert(mac, address);
        }
        Ok(())
    }

    fn once(&mut self, path: &Path, said: Said, what: &str) -> Result<(), FleetError> {
        match self.said.insert(said, path.to_path_buf()) {
            None => Ok(()),
            Some(first) => Err(FleetError::Twice { what: what.to_string(), first, second: path.to_path_buf() }),
        }
    }
}

/// Whether a machine could have this address on a network of ours; which networks there are, the server knows.
pub(super) fn is_usable(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}
