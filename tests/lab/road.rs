//! What the tests of whole roads have in common: one machine, the tiny images, and patience for emulation.

use super::{DiskSpec, Firmware, Lab, Machine, MachineSpec, Server, sha256_file, tiny_image};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The reservation of config/lab.toml.
pub const MAC: &str = "52:54:00:77:00:10";
pub const HOST: &str = "node-1";
pub const DISK_BYTES: u64 = 2 << 30;
/// Firmware, kernel and initramfs under emulation, on two cores that other tests share.
pub const NETBOOT: Duration = Duration::from_secs(150);
pub const DEPLOY: Duration = Duration::from_secs(300);

/// The server with `tiny:v1` and `tiny:v2`; `binary` is the test's `CARGO_BIN_EXE_regild`.
pub fn server_with_images(lab: &Lab, binary: &str) -> Server {
    let server = Server::start(lab, Path::new(binary));
    for version in ["v1", "v2"] {
        let image = tiny_image(version);
        server.regild(&["image", "import", image.to_str().unwrap(), "--as", &format!("tiny:{version}")]);
    }
    server
}

pub fn node(lab: &Lab, firmware: Firmware, disks: Vec<DiskSpec>) -> Machine {
    lab.machine(MachineSpec { disks, ..MachineSpec::new(HOST, firmware, MAC) })
}

/// A blank disk of [`DISK_BYTES`] in the lab's directory.
pub fn blank_disk(lab: &Lab, name: &str) -> DiskSpec {
    let path = lab.dir().join(format!("{name}.raw"));
    DiskSpec { serial: Some(name.into()), ..DiskSpec::new(path, DISK_BYTES) }
}

pub fn is_ready(image: &'static str) -> impl Fn(&Value) -> bool {
    move |host| host["state"] == "ready" && host["detail"] == "confirmed" && host["reported"] == image
}

/// The states that the host went through.
pub fn states(server: &Server) -> Vec<String> {
    let lines: Vec<Value> = serde_json::from_str(&server.regild(&["host", "history", HOST, "-o", "json"])).unwrap();
    lines.iter().map(|line| line["to"].as_str().unwrap().to_string()).collect()
}

/// How often the host was sent to the deploy environment.
pub fn attempts(server: &Server) -> usize {
    states(server).iter().filter(|state| *state == "netbooting").count()
}

/// The first bytes of a disk.
pub fn head_of(disk: &Path, bytes: usize) -> Vec<u8> {
    let mut head = vec![1; bytes];
    std::fs::File::open(disk).and_then(|mut file| file.read_exact(&mut head)).expect("reading a disk of the lab");
    head
}

/// Asks for a look from outside, lets the machine come, and switches it off before it boots its own disk, of which no byte
/// is another one then: the host as it is shown, with look `number` done.
pub fn looked_at(server: &Server, node: &mut Machine, disk: &Path, number: u64) -> Value {
    let before = sha256_file(disk);
    server.regild(&["host", "verify", HOST, "--reason", "odd logins"]);
    node.power_on();
    node.expect_console("read-only", NETBOOT).unwrap();
    let is_over = |host: &Value| host["verify"]["last"]["number"] == number;
    let host = server.wait_host(HOST, "verified", DEPLOY, is_over).unwrap();
    node.power_off();
    assert_eq!(sha256_file(disk), before, "the disk was written");
    host
}
