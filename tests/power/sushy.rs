//! Promises of the Redfish driver, against sushy-tools' emulator over TLS: a certificate is checked before a password
//! leaves, by authority or by fingerprint, and the error tells what a person must compare.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use regild::power::{Action, Override, PowerError, PowerState, Settings};

use crate::desk::Desk;
use crate::lab::Process;

const PASSWORD: &str = "Corr3ct.h0rse";

/// What `make test-power` puts there.
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/controllers/bin").join(name);
    assert!(path.exists(), "{} is not there; do: make test-power", path.display());
    path
}

struct Emulator {
    dir: tempfile::TempDir,
    port: u16,
    process: Process,
}

impl Emulator {
    fn start(power_state: &str) -> Emulator {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        certificates(dir.path());
        // bcrypt, cheap: it is checked at every request.
        let script =
            "import bcrypt,sys; print('regild:' + bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())";
        let hashed = Command::new(program("python")).args(["-c", script, PASSWORD]).output().unwrap();
        assert!(hashed.status.success(), "{}", String::from_utf8_lossy(&hashed.stderr));
        std::fs::write(path("users"), hashed.stdout).unwrap();
        let config = format!(
            "SUSHY_EMULATOR_AUTH_FILE = {:?}\nSUSHY_EMULATOR_STATE_DIR = {:?}\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{{\
             'uuid': '27946b59-9e44-4fa7-8e91-f3527a1ef094', 'name': 'web-1', 'power_state': '{power_state}', \
             'external_notifier': False, 'nics': [{{'mac': '52:54:00:77:00:21', 'ip': '10.77.0.21'}}]}}]\n",
            path("users"),
            dir.path()
        );
        std::fs::write(path("emulator.conf"), config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut emulator = Command::new(program("sushy-emulator"));
        emulator.args(["--fake", "-i", "127.0.0.1", "-p", &port.to_string(), "--config"]).arg(path("emulator.conf"));
        emulator.arg("--ssl-certificate").arg(path("bmc.pem")).arg("--ssl-key").arg(path("bmc.key"));
        let mut process = Process::spawn(emulator, &path("emulator.log"));
        process.wait_log("Running on", Duration::from_secs(60)).unwrap();
        Emulator { dir, port, process }
    }

    fn settings(&self, desk: &Desk, password: &str, trust: &str) -> Settings {
        desk.settings(&format!(
            "driver = \"redfish\"\nurl = \"https://localhost:{}\"\nuser = \"regild\"\npassword = \"{password}\"\n{trust}",
            self.port
        ))
    }

    fn authority(&self, name: &str) -> String {
        format!("ca_file = {:?}", self.dir.path().join(name))
    }

    /// As openssl prints it.
    fn fingerprint(&self) -> String {
        let certificate = self.dir.path().join("bmc.pem");
        let printed = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in", certificate.to_str().unwrap()]);
        printed.trim().split_once('=').unwrap().1.to_string()
    }

    fn requests(&self) -> usize {
        // Errors are coloured.
        self.process.log().lines().filter(|line| line.contains(" HTTP/1.1")).count()
    }
}

fn openssl(arguments: &[&str]) -> String {
    let output =
        Command::new("openssl").args(arguments).output().expect("running openssl; do: apt-get install openssl");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An authority, a certificate that it signed for `localhost`, and an authority that signed nothing.
fn certificates(dir: &Path) {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    for name in ["ca", "stranger"] {
        let (pem, secret) = (at(&format!("{name}.pem")), at(&format!("{name}.key")));
        let subject = format!("/CN=lab {name}");
        openssl(&[&["req", "-x509", "-subj", &subject, "-out", &pem, "-keyout", &secret][..], &key].concat());
    }
    let signed = ["-CA", &at("ca.pem"), "-CAkey", &at("ca.key"), "-addext", "subjectAltName=DNS:localhost"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-out", &at("bmc.pem"), "-keyout", &at("bmc.key")];
    openssl(&[&["req", "-x509", "-subj", "/CN=bmc"][..], &key, &signed, &leaf].concat());
}

#[test]
fn a_machine_boots_from_the_network_over_a_checked_connection() {
    let (desk, emulator) = (Desk::new(), Emulator::start("On"));
    for trust in [emulator.authority("ca.pem"), format!("fingerprint = \"{}\"", emulator.fingerprint())] {
        let settings = emulator.settings(&desk, PASSWORD, &trust);
        let report = desk.done(&settings, Action::BootToNetwork);
        // The emulator says so of every override.
        assert_eq!((report.boot_override, report.state), (Some(Override::Continuous), PowerState::On));
    }
    let log = emulator.process.log();
    assert!(log.contains("PATCH /redfish/v1/Systems/") && log.contains("ComputerSystem.Reset"), "{log}");
}

#[test]
fn a_machine_is_switched_off_and_on_again() {
    let (desk, emulator) = (Desk::new(), Emulator::start("On"));
    let settings = emulator.settings(&desk, PASSWORD, &emulator.authority("ca.pem"));
    assert_eq!(desk.done(&settings, Action::PowerOff).state, PowerState::Off);
    assert_eq!(desk.done(&settings, Action::BootToNetwork).state, PowerState::On);
}

#[test]
fn a_certificate_that_is_not_trusted_gets_no_request() {
    let (desk, emulator) = (Desk::new(), Emulator::start("On"));
    let other = format!("fingerprint = \"sha256:{}\"", "00".repeat(32));
    let colons = emulator.fingerprint().to_lowercase().replace(':', "");
    for trust in [other, emulator.authority("stranger.pem")] {
        let (error, _) = desk.fails(&emulator.settings(&desk, PASSWORD, &trust), Action::BootToNetwork);
        assert!(matches!(error, PowerError::NotTrusted { .. }), "{error}");
        assert!(error.to_string().contains(&colons), "the fingerprint to compare is not in: {error}");
    }
    // Signed for localhost, not for this name.
    let by_address = desk.settings(&format!(
        "driver = \"redfish\"\nurl = \"https://127.0.0.1:{}\"\nuser = \"regild\"\npassword = \"{PASSWORD}\"\n{}",
        emulator.port,
        emulator.authority("ca.pem")
    ));
    let (error, _) = desk.fails(&by_address, Action::BootToNetwork);
    assert!(matches!(error, PowerError::NotTrusted { .. }), "{error}");
    assert_eq!(emulator.requests(), 0, "{}", emulator.process.log());
    let (error, _) = desk.fails(&emulator.settings(&desk, PASSWORD, &emulator.authority("absent.pem")), Action::Status);
    assert!(matches!(&error, PowerError::Authorities { path, .. } if path.ends_with("absent.pem")), "{error}");
}

#[test]
fn a_wrong_password_is_tried_once() {
    let (desk, emulator) = (Desk::new(), Emulator::start("On"));
    let settings = emulator.settings(&desk, "wr0ng-W0rd", &emulator.authority("ca.pem"));
    let (error, _) = desk.fails(&settings, Action::BootToNetwork);
    assert!(matches!(error, PowerError::WrongPassword { .. }), "{error}");
    // The service root, which asks for none, and the one try. The emulator's log follows its answers.
    let start = Instant::now();
    while emulator.requests() < 2 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(emulator.requests(), 2, "{}", emulator.process.log());
}
