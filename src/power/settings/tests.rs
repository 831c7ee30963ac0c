//! Promises: what a person writes is taken or refused with the key's name; a password is sealed at once, is in no
//! export, and does not travel to another address (faults.md X6).

use super::*;
use crate::power::Host;

const PIN: &str = "sha256:a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
const WORD: &str = "correct horse";

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { dir: tempfile::tempdir().unwrap() }
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("power.key")
    }

    fn check(&self, text: &str, earlier: Option<&Settings>) -> Result<Settings, SettingsError> {
        let written: Written = toml::from_str(text).map_err(|error| wrong("syntax", error.to_string()))?;
        let macs = [Mac([0x52, 0x54, 0, 0, 0, 1])];
        let host = Host { id: "h-1", name: None, address: None, macs: &macs };
        written.check(&host, &self.key(), earlier)
    }

    fn refused(&self, text: &str, key: &str) {
        let error = self.check(text, None).expect_err(text).to_string();
        assert!(error.starts_with("power.") && error.contains(key), "{text}\n{error}");
    }
}

fn redfish(lines: &str) -> String {
    format!("driver = \"redfish\"\nuser = \"regild\"\n{lines}")
}

#[test]
fn every_driver_is_written_in_a_few_lines() {
    let desk = Desk::new();
    let pinned = redfish(&format!("url = \"https://bmc-1\"\nfingerprint = \"{PIN}\"\npassword = \"{WORD}\""));
    let table = [
        (pinned.as_str(), Driver::Redfish),
        ("driver = \"ipmi\"\naddress = \"10.0.0.5\"\nuser = \"admin\"\npassword = \"x\"", Driver::Ipmi),
        ("driver = \"wol\"\ninterface = \"eth1\"", Driver::Wol),
        ("driver = \"agent\"", Driver::Agent),
        ("driver = \"command\"\nprogram = \"pdu-outlet\"", Driver::Command),
        ("driver = \"manual\"", Driver::Manual),
    ];
    for (text, driver) in table {
        let settings = desk.check(text, None).unwrap();
        assert_eq!(settings.driver(), driver);
        // What the registry keeps comes back, from JSON and from postcard.
        assert_eq!(serde_json::from_str::<Settings>(&serde_json::to_string(&settings).unwrap()).unwrap(), settings);
        assert_eq!(postcard::from_bytes::<Settings>(&postcard::to_stdvec(&settings).unwrap()).unwrap(), settings);
        // An export, applied again, changes nothing.
        let export = toml::to_string(&settings.written()).unwrap();
        assert_eq!(desk.check(&export, Some(&settings)).unwrap(), settings, "{export}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_key() {
    let desk = Desk::new();
    let https = "url = \"https://bmc-1\"\npassword = \"x\"\n";
    for (text, key) in [
        ("driver = \"telnet\"".to_string(), "unknown variant"),
        (redfish(&format!("{https}fingerprint = \"{PIN}\"\npasswrod = \"x\"")), "passwrod"),
        ("driver = \"manual\"\nurl = \"x\"".into(), "url"),
        ("driver = \"agent\"\nport = 1".into(), "port"),
        (redfish(&https.replace("bmc-1", "root:calvin@bmc-1")), "power.url"),
        (redfish(https), "ca_file or fingerprint"),
        (redfish(&format!("{https}fingerprint = \"00\"")), "power.fingerprint"),
        (redfish(&format!("{https}fingerprint = \"{PIN}\"\nca_file = \"/ca.pem\"")), "power.fingerprint"),
        (redfish(&format!("{https}ca_file = \"ca.pem\"")), "power.ca_file"),
        (redfish(&format!("{https}fingerprint = \"{PIN}\"\nplaintext = true")), "power.plaintext"),
        (redfish(&https.replace("https", "http")), "plaintext = true"),
        (redfish(&https.replace("https", "http")).replace("regild", "a:b") + "plaintext = true", "power.user"),
        (redfish(&format!("{https}fingerprint = \"{PIN}\"\nsystem = \"a b\"")), "power.system"),
        (redfish(&format!("{https}fingerprint = \"{PIN}\"")).replace("\"x\"", "\"a\\nb\""), "power.password"),
        (redfish(&format!("url = \"https://b\"\nfingerprint = \"{PIN}\"")), "power.password"),
        (redfish(&format!("url = \"https://b\"\nfingerprint = \"{PIN}\"\npassword_env = \"X\"")), "power.password_env"),
        ("driver = \"ipmi\"\naddress = \"-H\"\nuser = \"a\"\npassword = \"x\"".into(), "power.address"),
        ("driver = \"ipmi\"\naddress = \"b\"\nuser = \"a\"\npassword = \"x\"\ncipher = 0".into(), "power.cipher"),
        ("driver = \"ipmi\"\naddress = \"b\"\nuser = \"a\"\npassword = \"123456789012345678901\"".into(), "20 bytes"),
        ("driver = \"ipmi\"\naddress = \"b\"\nuser = \"a2345678901234567\"\npassword = \"x\"".into(), "power.user"),
        ("driver = \"wol\"".into(), "power.interface"),
        ("driver = \"wol\"\ninterface = \"../x\"".into(), "power.interface"),
        ("driver = \"wol\"\ninterface = \"e\"\nmac = \"x\"".into(), "power.mac"),
        ("driver = \"command\"\nprogram = \"/bin/sh\"".into(), "power.program"),
        ("driver = \"command\"\nprogram = \"..\"".into(), "power.program"),
        ("driver = \"command\"\nprogram = \"a\"\ntimeout_seconds = 0".into(), "power.timeout_seconds"),
    ] {
        desk.refused(&text, key);
    }
    assert!(!desk.key().exists() || desk.key().metadata().unwrap().len() == 32);
}

#[test]
fn a_password_is_sealed_at_once_and_is_in_no_export() {
    let desk = Desk::new();
    let text = redfish(&format!("url = \"https://bmc-1\"\nfingerprint = \"{PIN}\"\npassword = \"{WORD}\""));
    let written: Written = toml::from_str(&text).unwrap();
    let settings = desk.check(&text, None).unwrap();
    let shown = [
        format!("{written:?} {settings:?}"),
        toml::to_string(&written).unwrap(),
        toml::to_string(&settings.written()).unwrap(),
        serde_json::to_string(&settings).unwrap(),
    ];
    for text in shown {
        assert!(!text.contains(WORD) && !text.contains(&clock::hex(WORD.as_bytes())), "{text}");
    }
    // One way out, between the command line and the server.
    assert_eq!(written.for_socket()["password"], WORD);
    assert_eq!(serde_json::from_value::<Written>(written.for_socket()).unwrap(), written);
}

#[test]
fn a_kept_password_stays_where_it_was_given() {
    let desk = Desk::new();
    let with = |url: &str, user: &str, pin: &str| {
        redfish(&format!("url = \"{url}\"\nfingerprint = \"{pin}\"")).replace("\"regild\"", &format!("\"{user}\""))
    };
    let first = desk.check(&format!("{}\npassword = \"{WORD}\"", with("https://a", "u", PIN)), None).unwrap();
    assert_eq!(desk.check(&with("https://a", "u", PIN), Some(&first)).unwrap(), first);
    let other = &PIN.replace("a0a1", "ffff");
    for (url, user, pin) in [("https://b", "u", PIN), ("https://a:444", "u", PIN), ("https://a", "v", PIN)] {
        let error = desk.check(&with(url, user, pin), Some(&first)).unwrap_err().to_string();
        assert!(error.contains("another address"), "{url} {user} {pin}: {error}");
    }
    assert!(desk.check(&with("https://a", "u", other), Some(&first)).is_err(), "it went to another certificate");
    let plain = redfish("url = \"http://a:443\"\nplaintext = true").replace("\"regild\"", "\"u\"");
    assert!(desk.check(&plain, Some(&first)).is_err(), "it went over the network in plain");
}

#[test]
fn the_document_s_reader_brings_the_password() {
    let desk = Desk::new();
    std::fs::write(desk.dir.path().join("bmc.secret"), format!("{WORD}\nsecond line\n")).unwrap();
    let environment = |name: &str| (name == "BMC").then(|| WORD.to_string());
    let gather = |lines: &str| {
        let text = format!("driver = \"ipmi\"\naddress = \"b\"\nuser = \"a\"\n{lines}");
        let mut written: Written = toml::from_str(&text).unwrap();
        written.gather_password(environment, desk.dir.path()).map(|()| written.for_socket()["password"].clone())
    };
    for lines in ["password_env = \"BMC\"", "password_file = \"bmc.secret\"", "password = \"correct horse\""] {
        assert_eq!(gather(lines).unwrap(), WORD, "{lines}");
    }
    for (lines, says) in [
        ("password_env = \"ABSENT\"", "ABSENT is not set"),
        ("password_file = \"absent\"", "absent"),
        ("password_env = \"BMC\"\npassword = \"x\"", "one of"),
    ] {
        let error = gather(lines).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
