//! The configuration file as written (TOML). Unknown keys are refused, so that a typing error cannot
//! silently switch a limit off. [`super::Config`] is what it means once checked.

use serde::Deserialize;
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where records, leases and images live.
    pub state_dir: PathBuf,
    /// What `make assets` built: deploy kernel and initramfs, bootloaders, SHA256SUMS.
    pub boot_assets: PathBuf,
    /// The operator API's Unix socket. Default: `<state_dir>/regild.sock`.
    pub socket: Option<PathBuf>,
    /// Members of this group may open it, each under a name of his own. Default: root only.
    pub socket_group: Option<String>,
    #[serde(default)]
    pub http: Http,
    #[serde(default)]
    pub tftp: Tftp,
    #[serde(default)]
    pub deploy: Deploy,
    #[serde(default)]
    pub image: Image,
    #[serde(default)]
    pub ipv6: Ipv6,
    #[serde(default, rename = "network")]
    pub networks: Vec<Network>,
    #[serde(default, rename = "reservation")]
    pub reservations: Vec<Reservation>,
}

/// HTTP for machines, on the address of each network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub port: u16,
    /// Connections at once; more wait in the kernel's queue. An agent keeps one for its reports as long as it works, and
    /// has some more for image data: 512 let a thousand agents starve each other (`make bench-fleet`).
    pub requests_max: usize,
    /// Of one address, so that no machine takes all of them. Those above it are closed at once. At least 8 (an agent has five),
    /// at most `requests_max`. Left out: 256, or `requests_max` where that is less.
    pub requests_of_one_max: Option<usize>,
    /// What all image data together may take, `500MB/s`. A group of hosts has its own in the fleet documents.
    pub bandwidth: Option<super::bandwidth::Bandwidth>,
    /// Where images are pushed to from afar; nothing listens without it.
    pub upload: Option<super::upload::Upload>,
}

impl Default for Http {
    fn default() -> Self {
        Http { port: 8080, requests_max: 4096, requests_of_one_max: None, bandwidth: None, upload: None }
    }
}

impl Http {
    /// As it is said, or by default.
    #[must_use]
    pub fn requests_of_one_max(&self) -> usize {
        self.requests_of_one_max.unwrap_or_else(|| self.requests_max.min(256))
    }
}

/// TFTP for firmware, on the address of each network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tftp {
    pub port: u16,
}

impl Default for Tftp {
    fn default() -> Self {
        Tftp { port: 69 }
    }
}

/// What holds for every deploy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// Attempts under one order before it ends in Failed.
    pub attempts_max: u32,
    /// Words for the deploy kernel's command line.
    pub kernel_args: Vec<String>,
}

impl Default for Deploy {
    fn default() -> Self {
        Deploy { attempts_max: 3, kernel_args: vec!["console=tty0".into(), "console=ttyS0,115200".into()] }
    }
}

/// Limits of the image store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// The largest disk image that an import takes, uncompressed.
    pub bytes_max: u64,
    /// Without it nothing is collected but by `image gc`, and that takes only retired versions.
    pub retention: Option<Retention>,
    pub scrub: Scrub,
    pub trust: Trust,
}

impl Default for Image {
    fn default() -> Self {
        Image { bytes_max: 1 << 40, retention: None, scrub: Scrub::default(), trust: Trust::default() }
    }
}

/// Which versions stay that nobody uses. One that a host runs, wants or may go back to always stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The newest so many versions of each name.
    pub keep_newest: Option<u32>,
    /// A length of time, `30d`.
    pub keep_younger_than: Option<String>,
    /// How often it is looked at. Default: `1d`.
    pub every: Option<String>,
}

/// When the image store reads itself again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// `30d`; without it only by `image scrub`.
    pub every: Option<String>,
    /// The most that is read in a second; 0: no limit.
    pub bytes_per_second: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        // A third of what one old disk gives, a twentieth of what machines are served from memory.
        Scrub { every: None, bytes_per_second: 50_000_000 }
    }
}

/// Who may vouch for images.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// `ed25519:BASE64`, a PEM block PUBLIC KEY, or a minisign public key.
    pub keys: Vec<String>,
    /// No host gets a version that none of them has signed.
    pub required: bool,
}

/// What is said about IPv6, which regild does not serve.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipv6 {
    /// Tell a netbooting iPXE that asks for an IPv6 router that we are none.
    pub answer_router_solicitations: bool,
}

impl Default for Ipv6 {
    fn default() -> Self {
        Ipv6 { answer_router_solicitations: true }
    }
}

/// One directly connected network that regild serves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub interface: String,
    /// Our address on it with the prefix length, `10.77.0.1/24`.
    pub address: String,
    pub router: Option<String>,
    #[serde(default)]
    pub dns: Vec<String>,
    #[serde(default = "lease_seconds")]
    pub lease_seconds: u32,
    /// `10.77.0.100-10.77.0.199`.
    #[serde(default)]
    pub pools: Vec<String>,
}

fn lease_seconds() -> u32 {
    3600
}

/// A fixed address for a MAC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub mac: String,
    pub address: String,
    /// Name of the host that has this MAC, for lists and for `ID` on the command line.
    pub name: Option<String>,
}
