//! What lies in a state directory, read as the server reads it.

use regild::config::{Config, DEFAULT_GROUP};
use regild::db::DbRead;
use regild::db::sled::SledDb;
use regild::registry::{HostView, Registry, history};
use std::path::Path;
use std::thread::JoinHandle;

use crate::brakes;
use crate::life::Life;

/// One host as it lies in the store.
#[derive(Debug)]
pub struct Stored {
    pub host: Option<HostView>,
    pub lines: Vec<history::Line>,
    /// The number in the host name of its lease.
    pub lease: Option<u32>,
}

/// The configuration of all servers and guests here. All of 10.77.0.0/16 is on the loopback of a namespace, so that
/// any host's address can be spoken from.
pub fn config_text(state_dir: &str) -> String {
    format!(
        "state_dir = \"{state_dir}\"\nboot_assets = \"boot-assets\"\n[deploy]\nattempts_max = {}\n\
         [[network]]\ninterface = \"lo\"\naddress = \"10.77.0.1/16\"\npools = [\"10.77.1.1-10.77.1.250\"]\n",
        crate::life::ATTEMPTS_MAX
    )
}

/// The store and the registry on it, opened with all that the server checks.
pub struct Opened {
    pub registry: Registry,
    writer: JoinHandle<()>,
    /// Address, and the number in the host name.
    leases: Vec<(String, u32)>,
}

impl Opened {
    /// # Errors
    /// Why the server would not start on it.
    pub fn open(state_dir: &Path) -> Result<Opened, String> {
        let config = Config::parse(&config_text(&state_dir.display().to_string()), Path::new("test.toml"));
        let config = config.map_err(|error| error.to_string())?;
        let db = SledDb::open(state_dir).map_err(|error| error.to_string())?;
        let leases = db.scan("lease/").map_err(|error| error.to_string())?;
        let leases = leases.iter().filter_map(|item| {
            let lease: serde_json::Value = serde_json::from_slice(&item.value).ok()?;
            let number = lease["hostname"].as_str()?.strip_prefix("n-")?.parse().ok()?;
            Some((lease["ip"].as_str()?.to_string(), number))
        });
        let leases = leases.collect();
        let (registry, writer) = Registry::start(Box::new(db), &config).map_err(|error| error.to_string())?;
        Ok(Opened { registry, writer, leases })
    }

    /// # Errors
    /// What in it cannot be read.
    pub fn stored(&self, hosts: u8) -> Result<Vec<Stored>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of this thread");
        let stored = |life: Life| {
            let host = self.registry.find(&life.id()).map(|view| (*view).clone());
            let lines = match &host {
                Some(_) => runtime.block_on(self.registry.history(&life.id())).map_err(|error| error.to_string())?,
                None => Vec::new(),
            };
            let lease = self.leases.iter().find(|(ip, _)| *ip == life.ip().to_string()).map(|(_, number)| *number);
            Ok(Stored { host, lines, lease })
        };
        (0..hosts).map(Life::unborn).map(stored).collect()
    }
}

/// Opens, reads these hosts and closes; the brakes of the load, which were acknowledged before it began, are there.
///
/// # Errors
/// As [`Opened::open`] and [`Opened::stored`], and when the brakes are lost.
pub fn read_under_load(state_dir: &Path, hosts: u8) -> Result<Vec<Stored>, String> {
    let opened = Opened::open(state_dir)?;
    let stored = opened.stored(hosts)?;
    opened.registry.read(|view| brakes::kept(view.policy(), &view.group(DEFAULT_GROUP)))?;
    let Opened { registry, writer, .. } = opened;
    drop(registry);
    writer.join().map_err(|_| "the writer panicked".to_string())?;
    Ok(stored)
}
